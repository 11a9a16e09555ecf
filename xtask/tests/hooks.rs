//! `cargo xtask hooks` in a temporary repository: which commits git rejects.

#![expect(clippy::unwrap_used, reason = "tests panic on errors")]

use std::path::Path;
use std::process::{Command, Output};

const TESTS: &str = "#[test]\nfn adds() {\n    assert_eq!(1 + 1, 2);\n}\n";
/// Replaces the cargo alias `xtask`; other arguments are passed to cargo.
const CARGO: &str =
    "#!/bin/sh\nif [ \"$1\" = xtask ]; then shift; exec \"$XTASK\" \"$@\"; fi\nexec \"$REAL_CARGO\" \"$@\"\n";

struct Repository(tempfile::TempDir);

impl Repository {
    /// A workspace of one crate without dependencies, committed, with the hook.
    fn new() -> Self {
        let repository = Self(tempfile::tempdir().unwrap());
        repository.write("Cargo.toml", "[workspace]\nresolver = \"3\"\nmembers = [\"crates/*\"]\n");
        repository.write(
            "crates/a/Cargo.toml",
            "[package]\nname = \"a\"\nversion = \"0.0.0\"\nedition = \"2024\"\n",
        );
        repository.write("crates/a/src/lib.rs", &format!("//! A crate.\n\n{TESTS}"));
        repository.write(".gitignore", "/bin\n/target\nCargo.lock\n");
        repository.write("bin/cargo", CARGO);
        let executable = std::os::unix::fs::PermissionsExt::from_mode(0o755);
        std::fs::set_permissions(repository.path().join("bin/cargo"), executable).unwrap();
        repository.succeeds("git", &["init", "--quiet"]);
        assert!(repository.commit().status.success());
        repository.succeeds("cargo", &["xtask", "hooks"]);
        repository
    }

    fn path(&self) -> &Path {
        self.0.path()
    }

    fn write(&self, path: &str, text: &str) {
        let path = self.path().join(path);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
    }

    fn run(&self, program: &str, arguments: &[&str]) -> Output {
        let mut command = Command::new(program);
        for variable in ["GIT_DIR", "GIT_INDEX_FILE", "GIT_WORK_TREE", "GIT_PREFIX", "CARGO"] {
            command.env_remove(variable);
        }
        let path = format!("{}/bin:{}", self.path().display(), env!("PATH"));
        command
            .args(arguments)
            .current_dir(self.path())
            .env("PATH", path)
            .env("XTASK", env!("CARGO_BIN_EXE_xtask"))
            .env("REAL_CARGO", env!("CARGO"))
            .env("CARGO_TARGET_DIR", self.path().join("target"))
            .envs([("GIT_AUTHOR_NAME", "a"), ("GIT_AUTHOR_EMAIL", "a@example.org")])
            .envs([("GIT_COMMITTER_NAME", "a"), ("GIT_COMMITTER_EMAIL", "a@example.org")])
            .output()
            .unwrap()
    }

    fn succeeds(&self, program: &str, arguments: &[&str]) {
        let output = self.run(program, arguments);
        assert!(output.status.success(), "{program} {arguments:?}: {output:?}");
    }

    fn commit(&self) -> Output {
        self.succeeds("git", &["add", "--all"]);
        self.run("git", &["commit", "--quiet", "-m", "A change"])
    }

    /// Commits these tests, expects a rejection with `reason`, and reverts them.
    fn rejects(&self, tests: &str, reason: &str) {
        self.write("crates/a/src/lib.rs", &format!("//! A crate.\n\n{tests}"));
        let output = self.commit();
        let message =
            format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        assert!(!output.status.success(), "committed, expected {reason:?}:\n{message}");
        assert!(message.contains(reason), "expected {reason:?}, seen:\n{message}");
        self.succeeds("git", &["reset", "--quiet", "--hard"]);
    }
}

#[test]
fn the_hook_rejects_weakened_tests_and_lints() {
    let repository = Repository::new();
    repository.rejects(&TESTS.replace("fn adds", "#[ignore]\nfn adds"), "adds became ignored");
    repository
        .rejects(&TESTS.replace("assert_eq!(1 + 1, 2)", "let _ = 1 + 1"), "adds no longer asserts anything");
    repository.rejects(&TESTS.replace("    assert", "  assert"), "`cargo fmt --all --check` failed");
    repository.rejects(&TESTS.replace("1 + 1, 2", "1 + 1, 3"), "cargo test");
    repository.rejects(&format!("{TESTS}\nfn unused() {{}}\n"), "never used");

    let more = TESTS.replace("adds", "adds_more");
    repository.write("crates/a/src/lib.rs", &format!("//! A crate.\n\n{TESTS}\n{more}"));
    let output = repository.commit();
    assert!(output.status.success(), "a valid change: {output:?}");
}

#[test]
fn another_hook_is_not_replaced() {
    let repository = Repository::new();
    repository.write(".git/hooks/pre-commit", "#!/bin/sh\n");
    let output = repository.run("cargo", &["xtask", "hooks"]);
    assert!(!output.status.success(), "{output:?}");
    let hook = std::fs::read_to_string(repository.path().join(".git/hooks/pre-commit")).unwrap();
    assert_eq!(hook, "#!/bin/sh\n");
}
