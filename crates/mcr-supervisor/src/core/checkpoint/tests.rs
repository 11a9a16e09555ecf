use super::*;
use crate::core::plan::samples::{config, rule};
use crate::core::simulation::World;

fn world() -> World {
    let mut world = World::with(config([rule("eth0", "239.1.1.1", 5000, "eth2")]));
    world.traffic();
    world
}

#[test]
fn records_are_read_as_they_were_written() {
    let world = world();
    let (id, worker) = world.machine.actual.workers.first_key_value().unwrap();
    let places = decode_page_slots(&encode_page_slots(worker)).unwrap();
    assert_eq!((&places.rules, &places.outputs), (&worker.rule_slots, &worker.output_slots));
    assert_eq!(places.wanted, worker.applied.as_ref().unwrap().wanted);
    let ledger = decode_ledger(&encode_ledger(&world.machine.ledger)).unwrap();
    assert_eq!(ledger, world.machine.ledger);
    let book = WorkerRecord::of(worker);
    assert_eq!(book.named.len(), 1);
    assert_eq!(book.sent, Some((1, worker.applied.as_ref().unwrap().hash)));
    let again: WorkerRecord = serde_json::from_str(&serde_json::to_string(&book).unwrap()).unwrap();
    assert_eq!(again, book);
    let record = world.machine.config_record("/etc/x".to_owned());
    let again: ConfigRecord = serde_json::from_str(&serde_json::to_string(&record).unwrap()).unwrap();
    assert_eq!(again, record);
    assert_eq!(again.config, *world.machine.config());
    let slot = SlotRecord { worker: id.clone(), fanout: 7, link_version: 1, note: None };
    let again: SlotRecord = serde_json::from_str(&serde_json::to_string(&slot).unwrap()).unwrap();
    assert_eq!(again, slot);
}

#[test]
fn other_versions_and_garbage_are_refused() {
    let world = world();
    let worker = world.machine.actual.workers.values().next().unwrap();
    let places = encode_page_slots(worker);
    let mut other = places.clone();
    other[0] += 1;
    assert!(decode_page_slots(&other).unwrap_err().to_string().contains("version"));
    for cut in 0..places.len() {
        assert!(decode_page_slots(&places[..cut]).is_err(), "{cut}");
    }
    assert!(decode_ledger(b"").is_err());
    // A book of another version may lack what this one knows, and have what it does not.
    let book: WorkerRecord = serde_json::from_str(r#"{"generation": 3, "new_field": [1]}"#).unwrap();
    assert_eq!((book.generation, book.next_egress), (3, 0));
}
