//! Listing a folder's objects in order of their whole names, as an object store does.

use std::fs;
use std::io::ErrorKind;

use super::super::{Listed, ObjectName, StoreErrorKind};
use super::{Fault, Folder};

/// What a listing asks for.
pub(super) struct Wanted<'a> {
    pub(super) prefix: &'a str,
    pub(super) after: Option<&'a str>,
    pub(super) limit: usize,
}

impl Wanted<'_> {
    /// Whether `name` is wanted, or, where it ends in a slash, something under it may be.
    fn may_hold(&self, name: &str) -> bool {
        let hidden = name.starts_with('.') || name.contains("/.");
        match name.ends_with('/') {
            _ if hidden => false,
            true => {
                let on_the_way = name.starts_with(self.prefix) || self.prefix.starts_with(name);
                on_the_way && self.after.is_none_or(|after| after < name || after.starts_with(name))
            }
            false => name.starts_with(self.prefix) && self.after.is_none_or(|after| after < name),
        }
    }
}

impl Folder {
    /// The objects that are wanted.
    pub(super) fn list(&self, wanted: &Wanted<'_>) -> Result<Vec<Listed>, Fault> {
        // No name of a vault holds a dot, and none begins with a slash: such a prefix would lead out of the folder.
        if wanted.prefix.contains('.') || wanted.prefix.starts_with('/') {
            return Err(Fault::Store(StoreErrorKind::Refused, "no object's name begins like this".into()));
        }
        let folder_part = wanted.prefix.rfind('/').map_or("", |at| &wanted.prefix[..=at]);
        let mut out = Vec::new();
        self.walk(folder_part, wanted, &mut out)?;
        Ok(out)
    }

    /// Objects under `directory`, whose name with a slash behind it is `at`, in order of names.
    fn walk(&self, at: &str, wanted: &Wanted<'_>, out: &mut Vec<Listed>) -> Result<(), Fault> {
        let entries = match fs::read_dir(self.root.join(at)) {
            Ok(entries) => entries,
            Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => return Ok(()),
            Err(error) => return Err(error.into()),
        };
        // A folder's names sort with their slash, as the whole names do.
        let mut found = Vec::new();
        for entry in entries {
            let entry = entry?;
            let kind = entry.file_type()?;
            let Ok(part) = entry.file_name().into_string() else { continue };
            match (kind.is_dir(), kind.is_file()) {
                (true, _) => found.push(format!("{at}{part}/")),
                (_, true) => found.push(format!("{at}{part}")),
                _ => {}
            }
        }
        found.sort_unstable();
        for name in found.into_iter().filter(|name| wanted.may_hold(name)) {
            if out.len() >= wanted.limit {
                break;
            }
            if name.ends_with('/') {
                self.walk(&name, wanted, out)?;
            } else if let Some(object) = ObjectName::listed(&name) {
                match fs::symlink_metadata(self.path(&object)) {
                    Ok(meta) => out.push(Listed { name: object, bytes: meta.len() }),
                    Err(error) if error.kind() == ErrorKind::NotFound => {}
                    Err(error) => return Err(error.into()),
                }
            }
        }
        Ok(())
    }
}
