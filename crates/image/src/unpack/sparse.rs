//! Sparse maps: which parts of a file the archive holds (GNU tar manual, "Storing Sparse Files").

/// A part of a file that has content.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Extent {
    /// Where it begins, in bytes.
    pub offset: u64,
    /// How long it is.
    pub length: u64,
}

/// Pairs of offset and length as extents; `None` when they are not ascending, leave the file, or are not what the archive
/// holds.
pub(super) fn extents(numbers: &[u64], file_size: u64, stored: u64) -> Option<Vec<Extent>> {
    if !numbers.len().is_multiple_of(2) {
        return None;
    }
    let (mut end, mut held) = (0_u64, 0_u64);
    let mut extents = Vec::with_capacity(numbers.len() / 2);
    for pair in numbers.chunks_exact(2) {
        let (offset, length) = (pair[0], pair[1]);
        if offset < end {
            return None;
        }
        end = offset.checked_add(length)?;
        held = held.checked_add(length)?;
        extents.push(Extent { offset, length });
    }
    (end <= file_size && held == stored).then_some(extents)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_map_must_ascend_and_fit() {
        assert_eq!(extents(&[0, 5, 10, 5], 20, 10).unwrap().len(), 2);
        for (numbers, size, stored) in [
            (&[10_u64, 5, 0, 5][..], 20, 10),
            (&[0, 5, 4, 5], 20, 10),
            (&[0, 5], 4, 5),
            (&[0, 5], 20, 6),
            (&[0], 20, 0),
            (&[u64::MAX, 5], u64::MAX, 5),
        ] {
            assert_eq!(extents(numbers, size, stored), None, "{numbers:?}");
        }
        assert_eq!(extents(&[], 100, 0), Some(Vec::new()));
    }
}
