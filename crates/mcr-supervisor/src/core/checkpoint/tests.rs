use serde_json::Value;

use super::records::CHECKPOINT_VERSION;
use super::*;
use crate::core::plan::samples::{config, output, rule};
use crate::core::simulation::World;

/// A world that stores each kind of item, except transient ones.
fn world() -> World {
    let mut all = config([
        rule("eth0", "239.1.1.1", 5000, "eth2"),
        rule("eth0", "ff15::1", 5001, "eth1"),
        rule("eth1", "10.1.0.2", 5002, "eth2"),
    ]);
    all.rules[0].input.sources = vec!["10.9.0.1".parse().unwrap()];
    all.rules[0].outputs.push(output("eth3", "239.2.0.2", 6000));
    all.settings.aggregate = mcr_rules::AggregateChoice::On;
    let mut world = World::with(all.clone());
    world.traffic();
    // The counters of a removed output are in the ledger, and slots are free.
    all.rules[0].outputs.pop();
    all.rules.remove(1);
    assert_eq!(world.change(all), Ok(()));
    world
}

/// The items without their records.
fn names(group: &[Change]) -> Vec<String> {
    group
        .iter()
        .map(|change| match change {
            Change::Put(key, _) => format!("+{key}"),
            Change::Remove(key) => format!("-{key}"),
        })
        .collect()
}

fn difference(checkpoint: &mut Checkpoint, world: &World) -> Vec<Vec<String>> {
    checkpoint.difference(&world.machine, world, &[]).iter().map(|group| names(group)).collect()
}

#[test]
fn only_what_changed_is_sent() {
    let rules = |count: u16| {
        let port = |number: u16| rule("eth0", "239.1.1.1", 1000 + number, "eth2");
        config((0..count).map(port))
    };
    let mut world = World::with(rules(1500));
    let mut checkpoint = Checkpoint::default();
    let all = difference(&mut checkpoint, &world);
    assert_eq!(all[0], ["+rules/0", "+rules/1", "+rules/2", "+config"]);
    assert_eq!(all[1], ["+ledger"]);
    assert_eq!(all.len(), 4, "one worker, and its group's socket: {all:?}");
    assert!(difference(&mut checkpoint, &world).is_empty());
    assert_eq!(world.change(rules(1501)), Ok(()));
    let added = difference(&mut checkpoint, &world);
    let worker = ["+worker/10/0/eth0", "+page-slots/10/0/eth0"].map(str::to_owned);
    assert_eq!(added, [vec!["+rules/2".to_owned(), "+config".to_owned()], worker.to_vec()]);
    assert_eq!(world.change(rules(500)), Ok(()));
    let removed = difference(&mut checkpoint, &world);
    assert_eq!(removed[0], ["+rules/0", "-rules/1", "-rules/2", "+config"]);
    // All items of a found keeper are sent again, and underived ones are removed.
    let keys = ["ledger", "slot/99/0/eth9", "worker/99/0/eth9", "joining", "a name of tomorrow"];
    let mut found = Checkpoint::found(keys.map(Key::parse));
    let groups = difference(&mut found, &world);
    assert_eq!(groups[1], ["+ledger", "-slot/99/0/eth9", "-worker/99/0/eth9"], "in one group");
    assert_eq!(groups.last().unwrap(), &["-joining", "-a name of tomorrow"]);
}

#[test]
fn a_change_under_way_does_not_count_before_it_is_done() {
    let before = config([rule("eth0", "239.1.1.1", 5000, "eth2")]);
    let mut world = World::with(before.clone());
    let after = config([rule("eth0", "239.1.1.2", 5000, "eth2")]);
    world.refusing = true;
    let undo = crate::core::machine::Unacknowledged::Undo;
    assert!(world.begin(after, undo));
    world.settle();
    assert_eq!(read_config(world.stored()).unwrap().unwrap().config, before);
    world.replace_keeper();
    assert_eq!(read_config(world.stored()).unwrap().unwrap().config, before);
}

#[test]
fn records_are_read_as_they_were_written() {
    let world = world();
    let stored = world.stored();
    check(stored).unwrap();
    let found = read_config(stored).unwrap().unwrap();
    assert_eq!(&found.config, world.machine.config());
    assert_eq!(&found.incarnations(), world.machine.lasting_config().1);
    assert_eq!(found.last_incarnation, 3);
    let ledger = read_ledger(stored).unwrap();
    assert_eq!(ledger.last_incarnation(), world.machine.ledger().last_incarnation());
    assert_eq!(workers(stored), world.machine.actual().workers.keys().cloned().collect());
    for (id, worker) in &world.machine.actual().workers {
        let found = read_worker(stored, id).unwrap();
        let slots = found.page_slots.unwrap();
        assert!(slots.rules.is_alike(&worker.rule_slots) && slots.outputs.is_alike(&worker.output_slots));
        assert_eq!(slots.filter, worker.applied.as_ref().unwrap().wanted);
        assert_eq!(found.record, WorkerRecord::of(worker));
        assert_eq!(found.record.sent, worker.applied.as_ref().map(|set| (set.set.generation, set.hash)));
        assert!(!found.record.named.is_empty());
        assert_eq!(found.process.unwrap().pid, worker.process.pid().unwrap());
    }
    let joined = |key: &Key| matches!(key, Key::Memberships(_));
    let sockets = stored.iter().filter(|(key, _)| joined(key));
    let all = sockets.flat_map(|(_, record)| read_memberships(record).unwrap());
    assert_eq!(all.collect::<std::collections::BTreeSet<_>>(), world.joined.all());
    assert_eq!(stored.keys().filter(|key| matches!(key, Key::Absorber(_))).count(), 1);
}

#[test]
fn other_versions_and_damage_are_refused() {
    let world = world();
    let damaged = |name: &str, damage: fn(&mut Vec<u8>)| {
        let mut stored = world.stored().clone();
        let (key, _) = stored.iter().find(|(key, _)| key.to_string().starts_with(name)).unwrap();
        damage(stored.get_mut(&key.clone()).unwrap());
        check(&stored).map_err(|error| error.to_string())
    };
    for (name, said) in [("ledger", "version"), ("page-slots", "version"), ("rules", "part 0")] {
        let reason = damaged(name, |record| record[0] += 1).unwrap_err();
        assert!(reason.contains(said), "{name}: {reason}");
    }
    for name in ["ledger", "page-slots", "config", "rules", "slot", "process", "worker"] {
        assert!(damaged(name, |record| _ = record.pop()).is_err(), "{name}");
        assert!(damaged(name, Vec::clear).is_err(), "{name}");
    }
    let mut stored = world.stored().clone();
    stored.insert(Key::parse("a name of tomorrow"), Vec::new());
    assert!(check(&stored).unwrap_err().to_string().contains("tomorrow"));
    // A record of another version may lack known fields and have unknown ones.
    let record: WorkerRecord = serde_json::from_str(r#"{"generation": 3, "new_field": [1]}"#).unwrap();
    assert_eq!((record.generation, record.next_egress), (3, 0));
    assert_eq!(read_config(&Stored::<Vec<u8>>::new()).unwrap(), None);
}

/// The items of a world as text: JSON as is, compact records in hexadecimal.
fn as_text(stored: &Stored<Vec<u8>>) -> String {
    let line = |(key, record): (&Key, &Vec<u8>)| {
        let compact = matches!(key, Key::Ledger | Key::PageSlots(_));
        let record = if compact {
            record.iter().map(|byte| format!("{byte:02x}")).collect()
        } else {
            String::from_utf8(record.clone()).unwrap()
        };
        format!("{key} {record}\n")
    };
    stored.iter().map(line).collect()
}

/// Whether a newer record has every field of an older one, with any numbers; it may have more.
fn has_all_of(newer: &Value, older: &Value) -> bool {
    match (newer, older) {
        (Value::Object(newer), Value::Object(older)) => {
            older.iter().all(|(key, old)| newer.get(key).is_some_and(|new| has_all_of(new, old)))
        }
        (Value::Array(newer), Value::Array(older)) => {
            newer.len() == older.len() && newer.iter().zip(older).all(|(new, old)| has_all_of(new, old))
        }
        (Value::Number(_), Value::Number(_)) => true,
        _ => newer == older,
    }
}

/// Compact records equal, byte for byte, those of the version they name, and JSON has lost no key: a change of layout
/// requires increasing [`CHECKPOINT_VERSION`] and saving the text that this test prints to a file with that number.
#[test]
fn the_layout_of_a_version_is_fixed() {
    let golden = match CHECKPOINT_VERSION {
        7 => include_str!("records_v7.txt"),
        other => panic!("version {other} has no file:\n{}", as_text(world().stored())),
    };
    let now = as_text(world().stored());
    assert_eq!(golden.lines().count(), now.lines().count(), "other items:\n{now}");
    for (old, new) in golden.lines().zip(now.lines()) {
        let json = |line: &str| serde_json::from_str(line.split_once(' ').unwrap().1).ok();
        let alike = match (json(old), json(new)) {
            (Some(old), Some(new)) => has_all_of(&new, &old),
            _ => old == new,
        };
        assert!(alike, "the layout changed and its version did not:\n{old}\n{new}\nall:\n{now}");
    }
}
