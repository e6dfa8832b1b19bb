//! One object of every kind, made of fixed keys, times and chance: what the golden files hold, and what the damage
//! tests damage.

use std::collections::BTreeMap;

use bytes::{Bytes, BytesMut};
use farshore_engine::digest::digests;
use farshore_engine::ids::{
    Chance, DiskNo, Epoch, IncarnationId, Lsn, MachineId, MarkId, RunId, Salt, Slot, TimelineId, Timestamp, VaultId,
    WriterId,
};
use farshore_engine::record::{DiskInfo, GapReason, Mark, MarkKind, Record, RecordAt};
use farshore_engine::section::{SectionBuilder, WriteKind};
use farshore_engine::vault::about::{About, TimelineInfo, WrappedKey};
use farshore_engine::vault::catalog::Catalog;
use farshore_engine::vault::crypto::{DataKey, VaultKey};
use farshore_engine::vault::keys::{KeyObject, PassphraseCost, RecoveryKey};
use farshore_engine::vault::manifest::{Doomed, Manifest, Pin, PinKind, Run};
use farshore_engine::vault::segment::{
    Boundary, Branch, Control, Counters, Footer, FooterDigest, FooterPlace, FrameEntry, FrameOpener, FrameSealer,
    ItemNo, LogVersion, ObjectKind, Packing, PartContents, RunHead, SegmentIdentity, SegmentIndex, seal_control,
    seal_footer, seal_part_footer,
};
use farshore_engine::vault::state::LogState;

pub(crate) const MACHINE: MachineId = MachineId([0x11; 16]);
pub(crate) const TIMELINE: TimelineId = TimelineId([0x22; 8]);
pub(crate) const GENERATION: u64 = 7;
pub(crate) const PASSPHRASE: &str = "far from the shore";

/// Chance that is the same every time: a counter, hashed.
pub(crate) struct Fixed(u64);

impl Chance for Fixed {
    fn fill(&mut self, bytes: &mut [u8]) {
        self.0 += 1;
        let mut hash = blake3::Hasher::new();
        hash.update(b"fixed chance").update(&self.0.to_le_bytes());
        hash.finalize_xof().fill(bytes);
    }
}

pub(crate) fn vault_key() -> VaultKey {
    VaultKey::from_bytes([0x44; 32])
}

pub(crate) fn data_key() -> DataKey {
    DataKey::from_bytes([0x33; 32])
}

pub(crate) fn recovery_key() -> RecoveryKey {
    RecoveryKey::draw(&mut Fixed(1000))
}

pub(crate) fn identity(salt: u8) -> SegmentIdentity {
    SegmentIdentity {
        machine: MACHINE,
        timeline: TIMELINE,
        epoch: Epoch(4),
        writer: WriterId([0x55; 16]),
        salt: Salt([salt; 16]),
        created_at: Timestamp(1_700_000_000_000_000),
        version: LogVersion::V1,
    }
}

fn disk(number: u16) -> DiskInfo {
    DiskInfo { disk: DiskNo(number), name: format!("disk {number}"), size_bytes: 1 << 30, sector_bytes: 512 }
}

/// The records of the example's one batch, LSN 1 to 40: one of each kind.
fn records() -> Vec<RecordAt> {
    let mark = Mark {
        id: MarkId([0x77; 16]),
        kind: MarkKind::Group,
        captured_at: Timestamp(1_700_000_001_000_000),
        members: vec![MACHINE, MachineId([0x12; 16])],
        label: "before the upgrade".into(),
    };
    [
        (1, Record::Incarnation { id: IncarnationId([0x66; 16]), predecessor: None }),
        (2, Record::DiskAdded(disk(0))),
        (3, Record::DiskAdded(disk(1))),
        (4, Record::DiskAdded(disk(2))),
        (5, Record::DiskResized { disk: DiskNo(2), size_bytes: 2 << 30 }),
        (6, Record::DiskRemoved { disk: DiskNo(2) }),
        (30, Record::GapClosed { disk: DiskNo(0) }),
        (31, Record::Mark(mark)),
        (32, Record::GapOpened { disk: DiskNo(0), from: Lsn(32), reason: GapReason::Overload }),
        (33, Record::ActivityLogInvalid { disk: DiskNo(1) }),
        (40, Record::CleanStop { captured_at: Timestamp(1_700_000_002_000_000) }),
    ]
    .map(|(lsn, record)| RecordAt { lsn: Lsn(lsn), record })
    .to_vec()
}

fn section(lsns: std::ops::Range<u64>, compressible: bool) -> Bytes {
    let digest_key = data_key().digest_key();
    let mut builder = SectionBuilder::default();
    let mut chance = Fixed(2000);
    for lsn in lsns {
        let mut data = vec![lsn as u8; 512];
        if !compressible {
            chance.fill(&mut data);
        }
        let offset = lsn.wrapping_mul(7919) % 5000 * 512;
        match lsn % 5 {
            0 => builder.fill(Lsn(lsn), offset, 1 << 16, WriteKind::Zero),
            1 => builder.fill(Lsn(lsn), offset, 1 << 12, WriteKind::Undefined),
            _ => builder.data(Lsn(lsn), offset, data.clone().into(), &digests(&digest_key, offset, &data)),
        }
    }
    builder.finish()
}

/// Where the example segment lies.
pub(crate) fn place() -> FooterPlace {
    FooterPlace { slot: Slot(1), previous: FooterDigest([0x99; 32]) }
}

/// The state behind the example segment.
pub(crate) fn state() -> LogState {
    let mut state = LogState::default();
    state.follow_run(Lsn(1), Lsn(40), &records()).expect("in order");
    state
}

/// A segment without its footer, and its index.
pub(crate) fn open_segment(packing: Packing) -> (Bytes, SegmentIndex) {
    let identity = SegmentIdentity { version: packing.version(), ..identity(0x88) };
    let sealer = FrameSealer::new(&data_key(), identity).packed(packing);
    let mut bytes = BytesMut::from(&identity.encode(ObjectKind::Segment)[..]);
    let mut index = SegmentIndex::new();
    let (first, last) = (Lsn(1), Lsn(40));
    let sections = [section(7..20, true), section(20..30, false)];
    let mut items = Vec::new();
    for (number, section) in sections.iter().enumerate() {
        let frame = sealer.seal_frame(ItemNo(number as u64 + 1), DiskNo(number as u16), first, last, section);
        items.push(frame.expect("well formed"));
    }
    items.push(sealer.seal_batch_end(ItemNo(3), first, last, 2, &records()));
    for item in &items {
        index.push(bytes.len() as u64, item);
        bytes.extend_from_slice(&item.bytes);
    }
    (bytes.freeze(), index)
}

pub(crate) fn segment() -> Bytes {
    segment_packed(Packing::Snappy)
}

/// The same batch in a log object of version 2.
pub(crate) fn zstd_segment() -> Bytes {
    segment_packed(Packing::Zstd(3))
}

fn segment_packed(packing: Packing) -> Bytes {
    let (items, index) = open_segment(packing);
    let end = items.len() as u64;
    let at = Timestamp(1_700_000_003_000_000);
    let identity = SegmentIdentity { version: packing.version(), ..identity(0x88) };
    let footer = seal_footer(&data_key(), &identity, place(), &index, &state(), Salt([0xaa; 16]), at, end);
    [items, footer.bytes].concat().into()
}

fn control(control: Control, salt: u8) -> Bytes {
    let at = Timestamp(1_700_000_004_000_000);
    let salts = (identity(salt), Salt([salt + 1; 16]));
    seal_control(&data_key(), &salts.0, control, place(), &state(), salts.1, at).bytes
}

pub(crate) fn fence() -> Bytes {
    control(Control::Fence, 0xb0)
}

pub(crate) fn branch() -> Bytes {
    let branch =
        Branch { timeline: TimelineId([0x23; 8]), slot: Slot(5), lsn: Lsn(40), footer: FooterDigest([0xcc; 32]) };
    control(Control::Branch(branch), 0xc0)
}

pub(crate) fn about() -> About {
    About {
        machine: MACHINE,
        name: "db-1 / primary".into(),
        disks: vec![disk(0), disk(1)],
        timelines: vec![TimelineInfo { id: TIMELINE, parent: None, created_at: Timestamp(1_700_000_000_000_000) }],
        hardware: [("firmware".to_owned(), "uefi".to_owned())].into(),
        data_key: WrappedKey::wrap(&vault_key(), MACHINE, &data_key(), &mut Fixed(1)),
    }
}

pub(crate) fn manifest() -> Manifest {
    let mut manifest = Manifest::new(Epoch(4));
    let pin = Pin {
        id: "audit".into(),
        kind: PinKind::Hold,
        lsn: Lsn(31),
        created_at: Timestamp(1_700_000_005_000_000),
        note: "until the audit is over".into(),
        expires_at: None,
    };
    manifest.pin(pin).expect("the first");
    manifest
}

/// A manifest with everything that merging puts into it: what no program of the first manifests reads.
pub(crate) fn merged_manifest() -> Manifest {
    let mut manifest = manifest();
    let at = Timestamp(1_700_000_007_000_000);
    let pin = Pin {
        id: "drill".into(),
        kind: PinKind::Hold,
        lsn: Lsn(5),
        created_at: at,
        note: String::new(),
        expires_at: Some(Timestamp(1_700_000_009_000_000)),
    };
    manifest.pin(pin).expect("the second");
    let run = |id: u8, from: u64, to: u64| {
        let (from, to, footer) = (Slot(from), Slot(to), FooterDigest([id; 32]));
        let (first, last) = (Lsn(from.0 * 40 + 1), Lsn(to.0 * 40 + 40));
        Run { id: RunId([id; 8]), from, to, parts: 2, bytes: 100_000, first, last, footer }
    };
    for (run, replaced) in [(run(1, 0, 4), vec![]), (run(2, 0, 9), vec![RunId([1; 8])]), (run(3, 10, 11), vec![])] {
        manifest.commit_run(Epoch(4), run, &replaced, |_| true, at).expect("it follows");
    }
    manifest
}

pub(crate) fn merged_manifest_bytes() -> Bytes {
    merged_manifest().seal(MACHINE, TIMELINE, &data_key(), &mut Fixed(7))
}

/// The same as the first programs that merged wrote it: they did not say what a doomed run was.
pub(crate) fn first_merged_manifest() -> Manifest {
    let mut manifest = merged_manifest();
    for doomed in &mut manifest.doomed {
        if let Doomed::Run { was, .. } = doomed {
            *was = None;
        }
    }
    manifest
}

pub(crate) fn first_merged_manifest_bytes() -> Bytes {
    first_merged_manifest().seal(MACHINE, TIMELINE, &data_key(), &mut Fixed(7))
}

/// The first part of a run that stands for slots 1 to 3.
pub(crate) fn run_part() -> Bytes {
    let identity = identity(0xcc);
    let sealer = FrameSealer::new(&data_key(), identity);
    let digest_key = data_key().digest_key();
    let mut builder = SectionBuilder::default();
    for (lsn, offset) in [(30, 0_u64), (30, 8192), (40, 4096)] {
        let data = Bytes::from(vec![lsn as u8; 4096]);
        builder.data(Lsn(lsn), offset, data.clone(), &digests(&digest_key, offset, &data));
    }
    builder.fill(Lsn(40), 1 << 20, 1 << 16, WriteKind::Zero);
    let item = sealer.seal_frame(ItemNo(1), DiskNo(0), Lsn(30), Lsn(40), &builder.finish()).expect("well formed");
    let mut bytes = BytesMut::from(&identity.encode(ObjectKind::Run)[..]);
    let header = &item.header;
    let frame = FrameEntry {
        number: header.number,
        offset: bytes.len() as u64,
        sealed_bytes: header.sealed_bytes,
        plain_bytes: header.plain_bytes,
        codec: header.codec,
        disk: DiskNo(0),
        first: header.first,
        last: header.last,
    };
    bytes.extend_from_slice(&item.bytes);
    let head = RunHead {
        run: RunId([0xee; 8]),
        part: 0,
        from: Slot(1),
        to: Slot(3),
        before: FooterDigest([0x98; 32]),
        behind: FooterDigest([0x97; 32]),
        owner: (Epoch(3), WriterId([0x54; 16])),
        boundaries: vec![Boundary { lsn: Lsn(31), slot: Slot(2), footer: FooterDigest([0x96; 32]) }],
    };
    let counters = Counters { batches: 0, writes: 4, payload_bytes: 3 * 4096 };
    let (records, state) = (records(), state());
    let part = PartContents {
        head: &head,
        previous: head.before,
        run: (Lsn(1), Lsn(40)),
        frames: &[frame],
        rows: &BTreeMap::from([(DiskNo(0), item.rows)]),
        records: &records,
        state: &state,
        counters,
    };
    let items_end = bytes.len() as u64;
    let at = Timestamp(1_700_000_008_000_000);
    bytes.extend_from_slice(&seal_part_footer(&data_key(), &identity, part, Salt([0xcd; 16]), at, items_end).bytes);
    bytes.freeze()
}

pub(crate) fn keys() -> KeyObject {
    let mut keys = KeyObject::new(VaultId([0xdd; 16]), Timestamp(1_700_000_000_000_000));
    let mut chance = Fixed(2);
    keys.add_passphrase(&vault_key(), PASSPHRASE, PassphraseCost::LEAST, &mut chance).expect("long enough");
    keys.add_recovery(&vault_key(), &recovery_key(), &mut chance);
    keys
}

pub(crate) fn about_bytes() -> Bytes {
    about().seal(GENERATION, &vault_key(), &mut Fixed(3)).1
}

pub(crate) fn catalog() -> Catalog {
    Catalog {
        vault: VaultId([0xdd; 16]),
        created_at: Timestamp(1_700_000_006_000_000),
        authority_pem: "-----BEGIN CERTIFICATE-----\n".into(),
        authority_key_pem: "-----BEGIN PRIVATE KEY-----\n".to_owned().into(),
        records: BTreeMap::from([("counters/-".to_owned(), r#"{"job":1,"event":2,"served":3}"#.to_owned())]),
    }
}

pub(crate) fn catalog_bytes() -> Bytes {
    catalog().seal(GENERATION, &vault_key(), &mut Fixed(6)).1
}

pub(crate) fn manifest_bytes() -> Bytes {
    manifest().seal(MACHINE, TIMELINE, &data_key(), &mut Fixed(4))
}

pub(crate) fn keys_bytes() -> Bytes {
    keys().seal(&vault_key(), &mut Fixed(5))
}

/// The vault key before [`vault_key`], for a vault that is being rotated.
pub(crate) fn previous_vault_key() -> VaultKey {
    VaultKey::from_bytes([0x77; 32])
}

/// The key object of a vault that is being rotated: version 2.
pub(crate) fn rotating_keys() -> KeyObject {
    let mut chance = Fixed(7);
    let mut keys = keys().rotated(&previous_vault_key(), &vault_key(), &mut chance);
    keys.add_recovery(&vault_key(), &recovery_key(), &mut chance);
    keys
}

pub(crate) fn rotating_keys_bytes() -> Bytes {
    rotating_keys().seal(&vault_key(), &mut Fixed(8))
}

/// Reads everything out of a log object: footer, pages, items. Any of it failing fails the whole.
pub(crate) fn read_log_object(object: &Bytes) -> Result<String, String> {
    let text = |error: &dyn std::fmt::Display| error.to_string();
    let footer = Footer::of_object(&data_key(), MACHINE, TIMELINE, object).map_err(|error| text(&error))?;
    let opener = FrameOpener::new(&data_key(), &footer.identity);
    let mut read = format!("{footer:#?}\n");
    let part = |offset: u64, len: u64| {
        let (from, to) = (offset as usize, (offset + len) as usize);
        if to <= object.len() { Ok(object.slice(from..to)) } else { Err("cut".to_owned()) }
    };
    for (number, page) in footer.pages.iter().enumerate() {
        let sealed = part(page.offset, page.len.into())?;
        let rows = footer.open_page(&data_key(), number, &sealed).map_err(|error| text(&error))?;
        read += &format!("page {number} {rows:#?}\n");
    }
    if footer.run.is_some() {
        for frame in &footer.frames {
            let (header, plain) =
                opener.open_item(&part(frame.offset, frame.item_bytes())?).map_err(|error| text(&error))?;
            read += &format!("frame {header:?} {}\n", blake3::hash(&plain));
        }
        return Ok(read);
    }
    // Every item, batch ends too: as verify does.
    let scan = farshore_engine::vault::segment::scan_whole_batches(object);
    if footer.control.is_none() {
        let scan = scan.map_err(|error| text(&error))?;
        if scan.cut != footer.items_end {
            return Err("items are missing".into());
        }
        for (at, header) in scan.batches.iter().flat_map(|batch| &batch.items) {
            let item = opener.reopen(&part(*at, header.item_bytes() as u64)?).map_err(|error| text(&error))?;
            let plain = opener.open_item(&item.bytes).map_err(|error| text(&error))?.1;
            let digest = blake3::hash(&plain);
            read += &format!("item {:?} {:?} plain {} {digest}\n", item.header, item.records, plain.len());
        }
    }
    Ok(read)
}
