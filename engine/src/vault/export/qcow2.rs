//! QEMU's copy-on-write format, version 3 (docs/interop/qcow2.rst of QEMU): clusters of 64 KiB, refcounts of 16 bits, no
//! backing file, no snapshots. All numbers are big-endian.
//!
//! ```text
//!   header | refcount table | refcount blocks | L1 table | L2 tables that hold anything | clusters that hold data
//! ```

use super::Allocated;

const CLUSTER_BITS: u32 = 16;
/// The unit of everything.
pub(super) const CLUSTER_BYTES: u64 = 1 << CLUSTER_BITS;
/// Entries of an L2 table, of the L1 table's clusters and of the refcount table's.
const ENTRIES: u64 = CLUSTER_BYTES / 8;
/// Clusters that one refcount block counts.
const COUNTED: u64 = CLUSTER_BYTES / 2;
/// Used once: may be written in place.
const COPIED: u64 = 1 << 63;
const HEADER_BYTES: u32 = 104;

/// Where each table lies, in clusters.
#[derive(Debug, Clone)]
pub(super) struct Tables {
    size_bytes: u64,
    data: Allocated,
    /// Which L2 tables there are, by rank.
    l2: Allocated,
    l1_entries: u64,
    refcount_blocks_at: u64,
    refcount_blocks: u64,
    refcount_table_clusters: u64,
    l1_at: u64,
    l2_at: u64,
    data_at: u64,
    clusters: u64,
}

impl Tables {
    pub(super) fn new(size_bytes: u64, data: Allocated) -> Self {
        let data = data.count_up();
        let l1_entries = size_bytes.div_ceil(CLUSTER_BYTES * ENTRIES);
        let mut l2 = Allocated::new(l1_entries, 1);
        for table in 0..l1_entries {
            if data.any(table * ENTRIES..(table + 1) * ENTRIES) {
                l2.add(table..table + 1);
            }
        }
        let l2 = l2.count_up();
        let l1_clusters = l1_entries.div_ceil(ENTRIES).max(1);
        let others = 1 + l1_clusters + l2.count() + data.count();
        // The counts count themselves: grow until they have room.
        let (mut refcount_blocks, mut refcount_table_clusters) = (1, 1);
        loop {
            let clusters = others + refcount_blocks + refcount_table_clusters;
            let (blocks, table) = (clusters.div_ceil(COUNTED), clusters.div_ceil(COUNTED).div_ceil(ENTRIES));
            if blocks <= refcount_blocks && table <= refcount_table_clusters {
                break;
            }
            (refcount_blocks, refcount_table_clusters) = (blocks, table);
        }
        let refcount_blocks_at = 1 + refcount_table_clusters;
        let l1_at = refcount_blocks_at + refcount_blocks;
        let l2_at = l1_at + l1_clusters;
        let data_at = l2_at + l2.count();
        let clusters = data_at + data.count();
        Self {
            size_bytes,
            data,
            l2,
            l1_entries,
            refcount_blocks_at,
            refcount_blocks,
            refcount_table_clusters,
            l1_at,
            l2_at,
            data_at,
            clusters,
        }
    }

    pub(super) fn file_bytes(&self) -> u64 {
        self.clusters * CLUSTER_BYTES
    }

    /// Where a byte of the disk lies, and how many follow it there.
    pub(super) fn place(&self, offset: u64) -> (u64, u64) {
        let (cluster, within) = (offset / CLUSTER_BYTES, offset % CLUSTER_BYTES);
        (self.cluster_at(cluster) + within, CLUSTER_BYTES - within)
    }

    fn cluster_at(&self, cluster: u64) -> u64 {
        (self.data_at + self.data.rank(cluster)) * CLUSTER_BYTES
    }

    pub(super) fn metadata(&self) -> impl Iterator<Item = (u64, Vec<u8>)> + Send + '_ {
        let header = std::iter::once((0, self.header()));
        let refcount_table =
            self.table(1, self.refcount_blocks, |block| (self.refcount_blocks_at + block) * CLUSTER_BYTES);
        let l1 = self.table(self.l1_at, self.l1_entries, |table| match self.l2.holds(table) {
            true => ((self.l2_at + self.l2.rank(table)) * CLUSTER_BYTES) | COPIED,
            false => 0,
        });
        let l2 = (0..self.l1_entries).filter(|table| self.l2.holds(*table)).map(|table| {
            let entries = (table * ENTRIES..(table + 1) * ENTRIES).map(|cluster| match self.data.holds(cluster) {
                true => self.cluster_at(cluster) | COPIED,
                false => 0,
            });
            let at = (self.l2_at + self.l2.rank(table)) * CLUSTER_BYTES;
            (at, entries.flat_map(u64::to_be_bytes).collect())
        });
        let refcounts = (0..self.refcount_blocks).map(|block| {
            let counted = self.clusters.saturating_sub(block * COUNTED).min(COUNTED);
            ((self.refcount_blocks_at + block) * CLUSTER_BYTES, [0, 1].repeat(counted as usize))
        });
        header.chain(refcount_table).chain(refcounts).chain(l1).chain(l2)
    }

    /// A table of 64-bit entries from a cluster on, cluster by cluster.
    fn table<'a>(
        &'a self,
        at: u64,
        entries: u64,
        entry: impl Fn(u64) -> u64 + Send + 'a,
    ) -> impl Iterator<Item = (u64, Vec<u8>)> + Send + 'a {
        (0..entries.div_ceil(ENTRIES)).map(move |cluster| {
            let within = cluster * ENTRIES..entries.min((cluster + 1) * ENTRIES);
            ((at + cluster) * CLUSTER_BYTES, within.flat_map(|index| entry(index).to_be_bytes()).collect())
        })
    }

    fn header(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(112);
        out.extend_from_slice(b"QFI\xfb");
        out.extend_from_slice(&3_u32.to_be_bytes());
        // No backing file.
        out.extend_from_slice(&[0; 12]);
        out.extend_from_slice(&CLUSTER_BITS.to_be_bytes());
        out.extend_from_slice(&self.size_bytes.to_be_bytes());
        // No encryption.
        out.extend_from_slice(&[0; 4]);
        out.extend_from_slice(&(self.l1_entries as u32).to_be_bytes());
        out.extend_from_slice(&(self.l1_at * CLUSTER_BYTES).to_be_bytes());
        out.extend_from_slice(&CLUSTER_BYTES.to_be_bytes());
        out.extend_from_slice(&(self.refcount_table_clusters as u32).to_be_bytes());
        // No snapshots; no features that a reader must, may or need not know.
        out.extend_from_slice(&[0; 12 + 24]);
        // Refcounts of 2^4 bits.
        out.extend_from_slice(&4_u32.to_be_bytes());
        out.extend_from_slice(&HEADER_BYTES.to_be_bytes());
        // No extensions.
        out.extend_from_slice(&[0; 8]);
        out
    }
}
