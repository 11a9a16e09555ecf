//! The committed files: compared, or rewritten.

use std::path::{Path, PathBuf};

/// The reference, whose parts come from several crates.
pub const REFERENCE: &str = "user_docs/REFERENCE.md";
/// Set by `cargo xtask manuals`: write what differs instead of failing.
const WRITE: &str = "MCR_WRITE_MANUALS";

/// A committed file, or the part of one between two markers, and its expected content.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Committed {
    path: String,
    part: Option<String>,
    content: String,
}

impl Committed {
    /// A whole file; the path counts from the root of the repository.
    #[must_use]
    pub fn file(path: impl Into<String>, content: String) -> Self {
        Self { path: path.into(), part: None, content }
    }

    /// The part of a file between `<!-- begin NAME … -->` and `<!-- end NAME -->`.
    #[must_use]
    pub fn part(path: impl Into<String>, name: &str, content: String) -> Self {
        Self { path: path.into(), part: Some(name.to_owned()), content }
    }

    /// Compares it with what is committed.
    ///
    /// # Panics
    /// It differs. With `MCR_WRITE_MANUALS` set it is written instead.
    pub fn assert_current(&self) {
        let path = root().join(&self.path);
        let before = std::fs::read_to_string(&path).unwrap_or_default();
        let wanted = self.whole(&before);
        if wanted == before {
            return;
        }
        if std::env::var_os(WRITE).is_some() {
            std::fs::write(&path, wanted).unwrap_or_else(|error| panic!("write {}: {error}", path.display()));
            return;
        }
        let line = wanted.lines().zip(before.lines()).position(|(new, old)| new != old);
        let line = line.unwrap_or_else(|| before.lines().count().min(wanted.lines().count()));
        panic!(
            "{} is out of date at line {}: {:?}, should be {:?}. `cargo xtask manuals` writes it",
            self.path,
            line + 1,
            before.lines().nth(line).unwrap_or_default(),
            wanted.lines().nth(line).unwrap_or_default(),
        );
    }

    /// The expected content of the whole file.
    fn whole(&self, before: &str) -> String {
        let Some(part) = &self.part else { return self.content.clone() };
        let (begin, end) = (format!("<!-- begin {part}"), format!("<!-- end {part} -->"));
        let (Some(begins), Some(ends)) = (before.find(&begin), before.find(&end)) else {
            panic!("{} has no markers for {part}: {begin} … --> and {end}", self.path);
        };
        let head = begins + before.get(begins..).and_then(|rest| rest.find('\n')).unwrap_or_default() + 1;
        let (head, tail) = (before.get(..head), before.get(ends..));
        format!("{}\n{}\n\n{}", head.unwrap_or_default(), self.content.trim(), tail.unwrap_or_default())
    }
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_part_between_the_markers_changes() {
        let before = "a\n<!-- begin x: generated -->\nold\n<!-- end x -->\nb\n";
        let part = Committed::part("f", "x", "new\n".to_owned());
        let after = part.whole(before);
        assert_eq!(after, "a\n<!-- begin x: generated -->\n\nnew\n\n<!-- end x -->\nb\n");
        assert_eq!(part.whole(&after), after);
    }

    #[test]
    #[should_panic(expected = "out of date at line 1")]
    fn a_file_that_differs_is_refused() {
        Committed::file("Cargo.toml", "something else\n".to_owned()).assert_current();
    }
}
