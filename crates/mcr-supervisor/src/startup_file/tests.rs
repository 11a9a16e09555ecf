use super::*;
use crate::core::plan::samples::{config, rule};

struct Place(PathBuf);

impl Place {
    fn new(name: &str) -> Self {
        let directory = std::env::temp_dir().join(format!("mcr-startup-{name}-{}", std::process::id()));
        let _ = fs::remove_dir_all(&directory);
        fs::create_dir(&directory).unwrap();
        Self(directory)
    }

    fn file(&self) -> PathBuf {
        self.0.join("mcr.json5")
    }

    fn names(&self) -> Vec<String> {
        let mut names: Vec<String> =
            fs::read_dir(&self.0).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

#[test]
fn what_is_saved_is_loaded() {
    let place = Place::new("round");
    let config = config([rule("eth0", "239.1.1.1", 5000, "eth1")]);
    assert_eq!(save(&place.file(), &config).unwrap().backup, None);
    assert_eq!(load(&place.file()).unwrap(), config);
    assert_eq!(save(&place.file(), &Config::default()).unwrap().backup, None, "nothing was lost");
    assert_eq!(load(&place.file()).unwrap(), Config::default());
    assert_eq!(place.names(), ["mcr.json5"]);
}

#[test]
fn comments_are_kept_beside() {
    let place = Place::new("comments");
    let text = "{ // the studio\n  rules: [] }";
    fs::write(place.file(), text).unwrap();
    fs::set_permissions(place.file(), fs::Permissions::from_mode(0o640)).unwrap();
    let saved = save(&place.file(), &Config::default()).unwrap();
    let backup = saved.backup.expect("a backup");
    assert_eq!(fs::read_to_string(&backup).unwrap(), text);
    assert_eq!(fs::metadata(place.file()).unwrap().mode() & 0o777, 0o640);
    assert_eq!(place.names(), ["mcr.json5", "mcr.json5.bak"]);
}

#[test]
fn a_link_stays_a_link() {
    let place = Place::new("link");
    let target = place.0.join("real.json5");
    fs::write(&target, "{}").unwrap();
    std::os::unix::fs::symlink(&target, place.file()).unwrap();
    save(&place.file(), &config([rule("eth0", "239.1.1.1", 5000, "eth1")])).unwrap();
    assert!(fs::symlink_metadata(place.file()).unwrap().is_symlink());
    assert_eq!(load(&target).unwrap().rules.len(), 1);
}

#[test]
fn a_failed_save_leaves_the_old_file_and_nothing_else() {
    let place = Place::new("failed");
    fs::write(place.file(), "{}").unwrap();
    // A directory in place of the temporary file can't be opened for writing, even by root.
    let temporary = beside(&place.file(), ".tmp");
    fs::create_dir(&temporary).unwrap();
    let error = save(&place.file(), &config([rule("eth0", "239.1.1.1", 5000, "eth1")])).unwrap_err();
    assert!(error.to_string().contains("can't remove it"), "{error}");
    assert_eq!(fs::read_to_string(place.file()).unwrap(), "{}");
}

#[test]
fn every_error_names_file_line_and_column() {
    let place = Place::new("errors");
    fs::write(place.file(), "{\n  rulez: [],\n  settings: { ring_buffers: 3 },\n}").unwrap();
    let text = load(&place.file()).unwrap_err().to_string();
    let name = place.file().display().to_string();
    assert!(text.lines().any(|line| line.starts_with(&format!("{name}:2:3: "))), "{text}");
    assert!(text.lines().any(|line| line.starts_with(&format!("{name}:3:"))), "{text}");
}

#[test]
fn a_missing_file_is_distinguished() {
    let place = Place::new("missing");
    let error = load(&place.file()).unwrap_err();
    assert!(matches!(error, StartupError::Missing(_)), "{error}");
    assert!(error.hint().is_some());
}
