use super::*;

const MS: Duration = Duration::from_millis(1);
const START: Duration = Duration::from_secs(1000);
const RIGHT: (u64, u64) = (7, 0xabc);

fn expected() -> Expected {
    Expected { ready_at: START, applying: None, table: Some(RIGHT) }
}

fn audit(generation: u64, hash: u64, audits: u64) -> Observation {
    // Alive at every time used in these tests.
    let beat_at = Duration::from_secs(u64::from(u32::MAX));
    Observation { beat_at, audit: Some(AuditSnapshot { generation, hash, audits }) }
}

/// Checks a worker whose last heartbeat was at `last`, every 250 ms; returns when the stall was found.
fn noticed(last: Duration, first_check: Duration, is_on_time: impl Fn(u32) -> bool) -> Duration {
    let mut health = Health::default();
    let seen = Observation { beat_at: last, audit: None };
    for check in 0..40 {
        let now = first_check + CHECK_EVERY * check;
        if let Some(finding) = health.check(&seen, &expected(), is_on_time(check), now) {
            assert_eq!(finding, Finding::Stalled { silent: now - last });
            assert!(health.kill_reason.as_ref().unwrap().contains("stalled"));
            assert_eq!(health.check(&seen, &expected(), true, now + CHECK_EVERY), None, "found once");
            return now - last;
        }
    }
    panic!("never noticed");
}

#[test]
fn a_stall_is_noticed_within_750_ms_and_never_before_500() {
    for offset in 0..250 {
        let last = START + MS * 10_000;
        let after = noticed(last, last + MS * offset, |_| true);
        assert!((500..=750).contains(&after.as_millis()), "{after:?} with the first check after {offset} ms");
    }
}

#[test]
fn checks_that_come_late_prove_nothing() {
    let last = START + MS * 10_000;
    assert_eq!(noticed(last, last + CHECK_EVERY, |check| check % 2 == 0), MS * 750);
    assert_eq!(noticed(last, last + CHECK_EVERY, |check| check > 8), MS * 2750);
}

#[test]
fn a_beat_in_between_excuses() {
    let mut health = Health::default();
    let mut seen = Observation { beat_at: START, ..audit(RIGHT.0, RIGHT.1, 1) };
    for check in 1..20 {
        let now = START + CHECK_EVERY * check;
        if check % 2 == 0 {
            seen.beat_at = now - MS * 100;
        }
        assert_eq!(health.check(&seen, &expected(), true, now), None, "check {check}");
    }
}

#[test]
fn a_predecessors_beat_is_not_held_against_a_new_worker_and_a_large_set_takes_its_time() {
    let mut health = Health::default();
    let old = Observation { beat_at: START - MS * 5_000, audit: None };
    assert_eq!(health.check(&old, &expected(), true, START + MS * 200), None);
    let applying = Expected { applying: Some(10_000), ..expected() };
    for check in 1..=4 {
        assert_eq!(health.check(&old, &applying, true, START + CHECK_EVERY * check), None);
    }
    let found = (5..10).find_map(|check| health.check(&old, &applying, true, START + CHECK_EVERY * check));
    assert_eq!(found, Some(Finding::Stalled { silent: CHECK_EVERY * 6 }));
}

#[test]
fn a_changed_table_is_repaired_once_and_the_second_time_the_worker_goes() {
    let mut health = Health::default();
    let mut now = START;
    let mut check = |health: &mut Health, seen: &Observation| {
        now += CHECK_EVERY;
        health.check(seen, &expected(), true, now)
    };
    let (good, bad) = (audit(7, 0xabc, 1), audit(7, 0xbad, 2));
    assert_eq!(check(&mut health, &good), None);
    let found = Finding::Drifted { drift: Drift::Contents, replaced: false };
    assert_eq!(check(&mut health, &bad), Some(found));
    assert!(health.resend);
    assert_eq!(check(&mut health, &bad), None, "the repair is under way");
    health.resend = false;
    assert_eq!(check(&mut health, &good), Some(Finding::Repaired { after: CHECK_EVERY * 2 }));
    assert_eq!(check(&mut health, &good), None);
    let found = Finding::Drifted { drift: Drift::Contents, replaced: true };
    assert_eq!(check(&mut health, &bad), Some(found));
    assert!(!health.resend && health.kill_reason.is_some());
    health.renew();
    assert_eq!((health.drifts, &health.kill_reason), (2, &None));
    assert_eq!(check(&mut health, &good), Some(Finding::Repaired { after: CHECK_EVERY }));
}

#[test]
fn a_drift_after_a_minute_is_a_first_one_again() {
    let mut health = Health::default();
    for minute in 0..3 {
        let now = START + DRIFT_WINDOW * minute;
        let found = health.check(&audit(7, 0xbad, 1), &expected(), true, now);
        assert_eq!(found, Some(Finding::Drifted { drift: Drift::Contents, replaced: false }));
        health.resend = false;
    }
}

#[test]
fn an_acknowledged_set_must_be_the_one_that_the_next_look_finds() {
    let mut health = Health::default();
    // First seen after the acknowledgement: this audit may be from before.
    assert_eq!(health.check(&audit(6, 0x1, 10), &expected(), true, START), None);
    assert_eq!(health.check(&audit(6, 0x1, 10), &expected(), true, START), None);
    let mut other = health.clone();
    assert_eq!(other.check(&audit(7, 0xabc, 11), &expected(), true, START), None);
    let found = Finding::Drifted { drift: Drift::Generation, replaced: false };
    assert_eq!(health.check(&audit(6, 0x1, 11), &expected(), true, START), Some(found));
}

#[test]
fn nothing_is_concluded_while_a_set_is_under_way_or_before_the_first_look() {
    let mut health = Health::default();
    let applying = Expected { applying: Some(1), ..expected() };
    assert_eq!(health.check(&audit(7, 0xbad, 1), &applying, true, START), None);
    let none = Observation { beat_at: START, audit: None };
    assert_eq!(health.check(&none, &expected(), true, START), None);
    assert_eq!(health.check(&audit(0, 0xbad, 9), &expected(), true, START), None, "caught while writing");
    assert_eq!(health.check(&audit(7, 0xbad, 1), &Expected { table: None, ..expected() }, true, START), None);
}

#[test]
fn a_worker_that_lives_and_never_looks_at_a_table_has_lost_its_first_set() {
    let mut health = Health::default();
    for check in 0..20 {
        let now = START + CHECK_EVERY * check;
        let seen = Observation { beat_at: now, audit: None };
        let found = health.check(&seen, &expected(), true, now);
        if now < START + FIRST_AUDIT_WITHIN {
            assert_eq!(found, None, "check {check}");
        } else {
            assert_eq!(found, Some(Finding::Drifted { drift: Drift::Generation, replaced: false }));
            return;
        }
    }
}

#[test]
fn a_worker_without_a_core_is_distinguished_from_one_that_stalls_or_spins() {
    let at = |runnable, run_ms: u64| Scheduling { runnable, run_time: MS * u32::try_from(run_ms).unwrap() };
    for (before, now, starved) in [
        (None, at(true, 500), true),
        (Some(at(true, 500)), at(true, 519), true),
        (Some(at(true, 500)), at(true, 520), false),
        (None, at(false, 500), false),
        (Some(at(true, 500)), at(false, 500), false),
    ] {
        assert_eq!(is_starved(before.as_ref(), &now), starved, "{before:?}, {now:?}");
    }
}
