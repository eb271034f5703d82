//! What a user wants stored.

use std::path::PathBuf;

use qstore_checkpoint::{Error, Exclude, Progress, Result, Scan, Source, scan_folder};
use qstore_container::limits::MAX_GIVEN;
use qstore_container::{VariantEntry, VariantName};

use super::change::Wish;

/// A variant that is to be stored.
#[derive(Debug, Clone)]
pub struct VariantSpec {
    /// Its name in the store.
    pub name: VariantName,
    /// The folder that holds it.
    pub folder: PathBuf,
    /// Keep its files as they are, so that any tool loads them from the store.
    pub verbatim: bool,
    /// Which of the variants below it may be stored given.
    pub given: GivenRule,
    /// Whether it is archived: given whatever of higher precision saves most, so that it takes little but its scales,
    /// and reading it reads that.
    pub archived: bool,
    /// The most matrices that one of its matrices is given, 1 to 16; 3 if not set. Reading it decodes each of them.
    pub levels: Option<u8>,
    /// Patterns of files that are left out: of a name anywhere (`.git`, `*.bin`), or with a slash of a path
    /// (`original/*`).
    pub exclude: Vec<String>,
    /// Refuse a folder that is not whole: shards missing, files that are still being fetched, pointers in place of
    /// files. Else that is told.
    pub strict: bool,
}

impl VariantSpec {
    /// All of a folder, given whichever of the variants below saves most.
    #[must_use]
    pub fn new(name: VariantName, folder: impl Into<PathBuf>) -> Self {
        let (folder, given, exclude) = (folder.into(), GivenRule::Any, Vec::new());
        Self { name, folder, verbatim: false, given, archived: false, levels: None, exclude, strict: false }
    }

    pub(super) fn wish(&self) -> Wish<'_> {
        let Self { verbatim, given, archived, levels, .. } = self;
        Wish { verbatim: *verbatim, given, archived: *archived, levels: *levels }
    }

    pub(super) fn scan(&self, progress: &dyn Progress) -> Result<Source> {
        if self.levels.is_some_and(|levels| !(1..=MAX_GIVEN).contains(&levels.into())) {
            return Err(Error::usage(format!("{} can be given 1 to {MAX_GIVEN} others", self.name)));
        }
        if self.archived && self.verbatim {
            let text = format!("{} cannot be both archived and kept as it is (verbatim)", self.name);
            return Err(Error::usage(text));
        }
        let scan = Scan { exclude: Exclude::new(&self.exclude)?, strict: self.strict };
        scan_folder(&self.folder, &scan, progress)
    }
}

/// Which variants another may be stored given, or share tensors with: reading it reads those as well.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum GivenRule {
    /// Whichever of those below saves most, tensor by tensor.
    #[default]
    Any,
    /// These alone; none makes it independent of all others.
    Only(Vec<VariantName>),
}

impl GivenRule {
    pub(super) fn of(entry: &VariantEntry) -> Self {
        entry.given_only.clone().map_or(Self::Any, Self::Only)
    }

    /// The variants that must be there.
    pub(super) fn names(&self) -> &[VariantName] {
        match self {
            Self::Any => &[],
            Self::Only(names) => names,
        }
    }

    pub(super) fn allows(&self, name: &VariantName) -> bool {
        match self {
            Self::Any => true,
            Self::Only(names) => names.contains(name),
        }
    }
}
