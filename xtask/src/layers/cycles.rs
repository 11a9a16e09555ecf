//! Import cycles between the modules of a crate.
//!
//! Sibling modules, each including its descendants, must not import each other in a cycle. A module and its parent may.

mod imports;

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use anyhow::{Context, Result};

use self::imports::{Module, ModulePath, read};

/// The siblings that each child of a module imports.
type Siblings = BTreeMap<String, BTreeSet<String>>;

/// Returns every import cycle below `sources`, the directory of a crate's root file, as the modules that form it.
pub(super) fn find(sources: &Path) -> Result<Vec<BTreeSet<String>>> {
    let modules = read(sources).with_context(|| format!("read {}", sources.display()))?;
    Ok(levels(&modules).into_iter().flat_map(|(parent, siblings)| cycles(&parent, &siblings)).collect())
}

/// Returns the imports between siblings, by parent.
fn levels(modules: &BTreeMap<ModulePath, Module>) -> BTreeMap<ModulePath, Siblings> {
    let mut levels: BTreeMap<ModulePath, Siblings> = BTreeMap::new();
    for (from, module) in modules {
        for path in &module.uses {
            let Some(to) = resolve(modules, from, path, 0) else { continue };
            let common = from.iter().zip(&to).take_while(|(a, b)| a == b).count();
            if let (Some(user), Some(used)) = (from.get(common), to.get(common)) {
                let siblings = levels.entry(from[..common].to_vec()).or_default();
                siblings.entry(user.clone()).or_default().insert(used.clone());
            }
        }
    }
    levels
}

/// Returns the module that defines what `path` names in the module `from`; re-exports are followed. `None` for a path
/// into another crate.
fn resolve(
    modules: &BTreeMap<ModulePath, Module>,
    from: &ModulePath,
    path: &[String],
    depth: usize,
) -> Option<ModulePath> {
    /// Maximum length of a chain of re-exports; a longer one is cyclic.
    const MAX_DEPTH: usize = 8;
    let mut place = from.clone();
    let mut rest = path;
    let mut relative = false;
    while let [first, tail @ ..] = rest {
        match first.as_str() {
            "crate" => place.clear(),
            "super" => drop(place.pop()),
            "self" => {}
            _ => break,
        }
        (rest, relative) = (tail, true);
    }
    while let [first, tail @ ..] = rest {
        let child: ModulePath = place.iter().chain([first]).cloned().collect();
        if modules.contains_key(&child) {
            (place, rest, relative) = (child, tail, true);
            continue;
        }
        // Any other path starts with another crate, or with an imported name.
        if relative
            && depth < MAX_DEPTH
            && let Some(target) = modules.get(&place).and_then(|module| module.exports.get(first))
        {
            let target: Vec<String> = target.iter().chain(tail).cloned().collect();
            return resolve(modules, &place, &target, depth + 1).or(Some(place));
        }
        break;
    }
    relative.then_some(place)
}

/// Returns the sets of siblings that import each other in a cycle, as paths.
fn cycles(parent: &ModulePath, siblings: &Siblings) -> Vec<BTreeSet<String>> {
    let reachable = |from: &String| {
        let mut seen = BTreeSet::new();
        let mut open = vec![from];
        while let Some(name) = open.pop() {
            for used in siblings.get(name).into_iter().flatten() {
                if seen.insert(used.clone()) {
                    open.push(used);
                }
            }
        }
        seen
    };
    let reachable: BTreeMap<&String, BTreeSet<String>> =
        siblings.keys().map(|name| (name, reachable(name))).collect();
    let mut found = BTreeSet::new();
    for (name, below) in &reachable {
        let back = |other: &&String| reachable.get(*other).is_some_and(|below| below.contains(*name));
        let cycle: BTreeSet<String> = below
            .iter()
            .filter(back)
            .map(|child| parent.iter().chain([child]).map(String::as_str).collect::<Vec<_>>().join("::"))
            .collect();
        if !cycle.is_empty() {
            found.insert(cycle);
        }
    }
    found.into_iter().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cycles_of(files: &[(&str, &str)]) -> Vec<Vec<String>> {
        let directory = tempfile::tempdir().unwrap();
        for (name, text) in files {
            let path = directory.path().join(name);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, text).unwrap();
        }
        find(directory.path()).unwrap().into_iter().map(|cycle| cycle.into_iter().collect()).collect()
    }

    #[test]
    fn siblings_must_not_import_each_other() {
        let there = ("a.rs", "use std::fmt;\nuse crate::{\n    b::{One, Two},\n};\n");
        assert!(cycles_of(&[("lib.rs", "mod a;\nmod b;\n"), there, ("b.rs", "")]).is_empty());
        for back in ["use super::a::Three;\n", "fn f() { crate::a::three() }\n", "pub use crate::a;\n"] {
            assert_eq!(cycles_of(&[("lib.rs", ""), there, ("b.rs", back)]), [["a", "b"]], "{back}");
        }
        let comment = ("b.rs", "/// See [`crate::a::Three`].\n// use crate::a::Three;\nfn f() {}\n");
        assert!(cycles_of(&[("lib.rs", ""), there, comment]).is_empty());
    }

    #[test]
    fn a_module_includes_its_descendants() {
        let files = [
            ("lib.rs", ""),
            ("a/x.rs", "use crate::b::One;\n"),
            ("a.rs", "mod x;\n"),
            ("b.rs", "mod y;\n"),
            ("b/y.rs", "use crate::a;\n"),
        ];
        assert_eq!(cycles_of(&files), [["a", "b"]]);
    }

    #[test]
    fn parent_and_child_may_import_each_other() {
        let child = ("a/x.rs", "use super::One;\nuse crate::Two;\n");
        assert!(
            cycles_of(&[("lib.rs", "use crate::a::x;\n"), ("a.rs", "use self::x::Three;\n"), child])
                .is_empty()
        );
    }

    #[test]
    fn re_exports_are_followed() {
        let files = [
            ("lib.rs", "mod a;\nmod b;\npub use a::{One as Other};\npub use b::Two;\n"),
            ("a.rs", "use crate::Two;\n"),
            ("b.rs", "use crate::Other;\n"),
        ];
        assert_eq!(cycles_of(&files), [["a", "b"]]);
    }

    #[test]
    fn tests_may_import_anything() {
        let inline = "use super::b;\n#[cfg(test)]\nmod tests {\n    fn f() {}\n}\n";
        let files = [
            ("lib.rs", "mod a;\nmod b;\n#[cfg(test)]\nmod kit;\n"),
            ("a.rs", inline),
            ("b.rs", "#[cfg(test)]\nmod tests {\n    use crate::a::One;\n}\n"),
            ("b/tests.rs", "use crate::a::One;\n"),
            ("b/tests/more.rs", "use crate::a::One;\n"),
            ("kit.rs", "use crate::a::One;\n"),
        ];
        assert!(cycles_of(&files).is_empty());
    }
}
