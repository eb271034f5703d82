//! Where the demo works, and what it calls the model that it is given.

use std::fs;
use std::path::{Path, PathBuf};

use tempfile::TempDir;

use crate::failure::Failure;

/// A folder for the demo's folders, removed at the end unless the user named it.
pub(crate) struct Workplace {
    folder: PathBuf,
    temporary: Option<TempDir>,
}

impl Workplace {
    pub(crate) fn new(keep: Option<&Path>) -> Result<Self, Failure> {
        let Some(folder) = keep else {
            let parent = std::env::temp_dir();
            let temporary =
                tempfile::Builder::new().prefix("qstore-demo-").tempdir_in(&parent).map_err(|source| {
                    Failure::File { path: parent, what: "cannot create a temporary folder in", source }
                })?;
            return Ok(Self { folder: temporary.path().to_owned(), temporary: Some(temporary) });
        };
        let failed =
            |source| Failure::File { path: folder.to_owned(), what: "cannot create the folder", source };
        fs::create_dir_all(folder).map_err(failed)?;
        // A file system keeps a folder of its own in its first one.
        let is_own =
            |entry: std::io::Result<fs::DirEntry>| entry.is_ok_and(|entry| entry.file_name() == "lost+found");
        if !fs::read_dir(folder).map_err(failed)?.all(is_own) {
            return Err(Failure::Usage(format!(
                "--keep {}: the folder is not empty; name a new one",
                folder.display()
            )));
        }
        Ok(Self { folder: folder.to_owned(), temporary: None })
    }

    pub(crate) fn folder(&self) -> &Path {
        &self.folder
    }

    /// Removes a folder that is not needed any more, unless everything is to be kept; large models leave little room.
    pub(crate) fn discard(&self, folder: &Path) -> Result<(), Failure> {
        if self.temporary.is_none() {
            return Ok(());
        }
        let failed = |source| Failure::File { path: folder.to_owned(), what: "cannot remove", source };
        fs::remove_dir_all(folder).map_err(failed)
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.folder.join(name)
    }
}

/// A variant's name for the model in `folder`, from the element type in its configuration.
pub(crate) fn name_of(folder: &Path) -> &'static str {
    let config = fs::read(folder.join("config.json")).unwrap_or_default();
    let config: serde_json::Value = serde_json::from_slice(&config).unwrap_or_default();
    // transformers 5 writes `dtype`, 4 wrote `torch_dtype`; a multimodal model may have it only in its language model's
    // part.
    let dtype = ["/dtype", "/torch_dtype", "/text_config/dtype", "/text_config/torch_dtype"]
        .iter()
        .find_map(|pointer| config.pointer(pointer)?.as_str());
    match dtype {
        Some("bfloat16") => "bf16",
        Some("float16") => "fp16",
        Some("float32") => "fp32",
        _ => "original",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_follow_the_configuration() {
        let dir = tempfile::tempdir().unwrap();
        let name = |config: &str| {
            fs::write(dir.path().join("config.json"), config).unwrap();
            name_of(dir.path())
        };
        assert_eq!(name(r#"{"dtype":"bfloat16"}"#), "bf16");
        assert_eq!(name(r#"{"torch_dtype":"float16"}"#), "fp16");
        assert_eq!(name(r#"{"text_config":{"dtype":"float32"}}"#), "fp32");
        assert_eq!(name("{}"), "original");
        assert_eq!(name("not JSON"), "original");
        assert_eq!(name_of(Path::new("/no/such/folder")), "original");
    }

    #[test]
    fn a_folder_to_keep_must_be_new_or_empty() {
        let dir = tempfile::tempdir().unwrap();
        let new = dir.path().join("a/b");
        assert_eq!(Workplace::new(Some(&new)).unwrap().path("x"), new.join("x"));
        assert!(new.is_dir(), "kept");
        assert!(matches!(Workplace::new(Some(dir.path())), Err(Failure::Usage(_))));
        let temporary = Workplace::new(None).unwrap().folder().to_owned();
        assert!(!temporary.exists(), "removed");
    }
}
