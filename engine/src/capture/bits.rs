//! A set of region numbers of fixed size that knows how many it holds.

/// One bit per region.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RegionSet {
    words: Vec<u64>,
    size: u32,
    count: u32,
}

impl RegionSet {
    /// A set of no region out of `size`.
    pub fn none(size: u32) -> Self {
        Self { words: vec![0; (size as usize).div_ceil(64)], size, count: 0 }
    }

    /// A set of all `size` regions.
    pub fn all(size: u32) -> Self {
        let mut set = Self::none(size);
        set.words.fill(u64::MAX);
        if let Some(last) = set.words.last_mut()
            && !size.is_multiple_of(64)
        {
            *last = (1 << (size % 64)) - 1;
        }
        set.count = size;
        set
    }

    /// How many regions there are, in the set or not.
    pub fn size(&self) -> u32 {
        self.size
    }

    /// How many regions are in the set.
    pub fn count(&self) -> u32 {
        self.count
    }

    /// Whether no region is in the set.
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// Whether `region` is in the set.
    pub fn contains(&self, region: u32) -> bool {
        assert!(region < self.size, "region {region} of {}", self.size);
        self.words[region as usize / 64] & (1 << (region % 64)) != 0
    }

    /// Adds `region`; false where it was in.
    pub fn insert(&mut self, region: u32) -> bool {
        let new = !self.contains(region);
        self.words[region as usize / 64] |= 1 << (region % 64);
        self.count += u32::from(new);
        new
    }

    /// Removes `region`; false where it was not in.
    pub fn remove(&mut self, region: u32) -> bool {
        let was = self.contains(region);
        self.words[region as usize / 64] &= !(1 << (region % 64));
        self.count -= u32::from(was);
        was
    }

    /// The first region of the set at or after `from`.
    pub fn next(&self, from: u32) -> Option<u32> {
        let mut at = from as usize / 64;
        let mut word = self.words.get(at)? & (u64::MAX << (from % 64));
        while word == 0 {
            at += 1;
            word = *self.words.get(at)?;
        }
        Some(at as u32 * 64 + word.trailing_zeros())
    }

    /// The regions of the set, in order.
    pub fn iter(&self) -> impl Iterator<Item = u32> + '_ {
        let mut from = 0;
        std::iter::from_fn(move || {
            let region = self.next(from)?;
            from = region + 1;
            Some(region)
        })
    }

    /// The bits, 64 regions a word.
    pub(super) fn words(&self) -> &[u64] {
        &self.words
    }

    /// Whether every region of `other` is in this set.
    pub fn covers(&self, other: &Self) -> bool {
        self.size == other.size && self.words.iter().zip(&other.words).all(|(mine, theirs)| theirs & !mine == 0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_region_set_counts_and_finds_its_regions() {
        for size in [1, 63, 64, 65, 200] {
            let mut set = RegionSet::all(size);
            assert_eq!((set.count(), set.iter().count() as u32), (size, size));
            assert!(set.remove(size - 1) && !set.remove(size - 1));
            assert_eq!(set.next(size - 1), None);
            assert!(set.insert(size - 1) && !set.insert(size - 1));
            assert_eq!(set, RegionSet::all(size));
            assert!(set.covers(&RegionSet::none(size)) && !RegionSet::none(size).covers(&set));
        }
        assert_eq!(RegionSet::none(100).next(0), None);
        assert_eq!(RegionSet::all(100).next(100), None);
    }
}
