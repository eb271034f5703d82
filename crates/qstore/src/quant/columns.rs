//! Which columns of a matrix share their scales.

use qstore_container::FormatError;

/// Columns of one group that follow each other.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct ColumnRun {
    pub(crate) start: usize,
    pub(crate) end: usize,
    pub(crate) group: usize,
}

/// The group of each column.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Columns {
    groups: usize,
    group_of_column: Vec<u32>,
}

impl Columns {
    /// Columns of `groups` groups.
    ///
    /// # Errors
    /// A column of a group that there is not.
    pub(super) fn new(groups: usize, group_of_column: Vec<u32>) -> Result<Self, FormatError> {
        if group_of_column.iter().any(|group| *group as usize >= groups) {
            return Err(FormatError::new("column_groups: a column of a group that there is not"));
        }
        Ok(Self { groups, group_of_column })
    }

    /// Columns in groups that begin at these columns, the first at 0.
    pub(super) fn from_starts(starts: &[usize], cols: usize) -> Self {
        let mut group_of_column = Vec::with_capacity(cols);
        for (group, start) in (0u32..).zip(starts) {
            let end = starts.get(group as usize + 1).copied().unwrap_or(cols);
            group_of_column.resize(group_of_column.len() + end.saturating_sub(*start), group);
        }
        Self { groups: starts.len(), group_of_column }
    }

    /// Columns of one group.
    #[cfg(test)]
    pub(crate) fn whole(cols: usize) -> Self {
        Self::from_starts(&[0], cols)
    }

    /// The same for another number of columns: the first ones, or with more of the last one's group.
    pub(super) fn resize(&mut self, cols: usize) {
        let last = self.group_of_column.last().copied().unwrap_or(0);
        self.group_of_column.resize(cols, last);
    }

    /// How many columns.
    pub(crate) fn len(&self) -> usize {
        self.group_of_column.len()
    }

    /// The group of each column, in order.
    pub(super) fn of_each(&self) -> impl Iterator<Item = usize> {
        self.group_of_column.iter().map(|group| *group as usize)
    }

    /// How many groups, some of which may have no column.
    pub(crate) fn groups(&self) -> usize {
        self.groups
    }

    /// The groups in the order of the columns.
    pub(crate) fn runs(&self) -> Vec<ColumnRun> {
        let mut start = 0;
        let of_group = |columns: &[u32]| {
            let run = ColumnRun { start, end: start + columns.len(), group: columns[0] as usize };
            start = run.end;
            run
        };
        self.group_of_column.chunk_by(|a, b| a == b).map(of_group).collect()
    }

    /// The columns sorted by group, if they are not; those of a group in their own order.
    pub(crate) fn order(&self) -> Option<Vec<u32>> {
        if self.group_of_column.is_sorted() {
            return None;
        }
        let mut order: Vec<u32> = (0..u32::try_from(self.len()).unwrap_or(u32::MAX)).collect();
        order.sort_by_key(|column| self.group_of_column[*column as usize]);
        Some(order)
    }

    /// The groups in the order of the sorted columns.
    pub(crate) fn sorted_runs(&self) -> Vec<ColumnRun> {
        let mut group_of_column = self.group_of_column.clone();
        group_of_column.sort_unstable();
        Self { groups: self.groups, group_of_column }.runs()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn runs(runs: Vec<ColumnRun>) -> Vec<(usize, usize, usize)> {
        runs.into_iter().map(|run| (run.start, run.end, run.group)).collect()
    }

    #[test]
    fn columns_may_be_in_any_order() {
        let columns = Columns::new(3, vec![1, 0, 0, 1, 1, 1, 0, 1]).unwrap();
        assert_eq!(runs(columns.runs()), [(0, 1, 1), (1, 3, 0), (3, 6, 1), (6, 7, 0), (7, 8, 1)]);
        assert_eq!(columns.order().unwrap(), [1, 2, 6, 0, 3, 4, 5, 7]);
        assert_eq!(runs(columns.sorted_runs()), [(0, 3, 0), (3, 8, 1)]);
        assert!(Columns::new(1, vec![0, 1]).is_err());
        assert!(Columns::new(1, vec![u32::MAX]).is_err());
    }

    #[test]
    fn columns_can_be_more_or_fewer() {
        let mut columns = Columns::from_starts(&[0, 3, 6], 8);
        assert_eq!(runs(columns.runs()), [(0, 3, 0), (3, 6, 1), (6, 8, 2)]);
        assert_eq!((columns.order(), columns.groups()), (None, 3));
        columns.resize(10);
        assert_eq!(runs(columns.runs()), [(0, 3, 0), (3, 6, 1), (6, 10, 2)]);
        columns.resize(4);
        assert_eq!(runs(columns.sorted_runs()), [(0, 3, 0), (3, 4, 1)]);
    }
}
