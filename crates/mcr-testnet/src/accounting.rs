//! The accounting identity of the relay's counters: each received datagram is accounted for.

use serde_json::Value;

/// Checks `mcrctl stats --json` of a quiet daemon: `received = matched + Σ skips + held` and `due = sent + Σ drops` over all
/// workers and the kernel, and for the kernel alone, `Σ outputs (packets + errors) = due` for each rule, and
/// `errors = Σ drops` for each output.
pub fn assert_accounting(stats: &Value) {
    if let Err(message) = check(stats) {
        panic!("{message}\n{stats:#}");
    }
}

pub(crate) fn check(stats: &Value) -> Result<(), String> {
    let past = stats.get("past_workers").unwrap_or(&Value::Null);
    let kernel = stats.get("kernel").unwrap_or(&Value::Null);
    let workers = |name: &str| {
        let of = |part: &Value| part.get(name).and_then(Value::as_u64).unwrap_or_default();
        let left = of(past) + of(kernel);
        let present: Result<u64, String> = list(stats, "workers").map(|worker| number(worker, name)).sum();
        present.map(|present| present + left)
    };
    let held: u64 = list(stats, "workers").filter_map(|worker| worker.get("held")?.as_u64()).sum();
    let taken = workers("matched")? + by_reason(stats, "skips")? + held;
    if !kernel.is_null() {
        equal("kernel: received = matched", number(kernel, "received")?, number(kernel, "matched")?)?;
        let settled = number(kernel, "sent")? + by_reason(kernel, "drops")?;
        equal("kernel: due = sent + drops", number(kernel, "due")?, settled)?;
    }
    equal("received = matched + skips + held", workers("received")?, taken)?;
    equal("due = sent + drops", workers("due")?, workers("sent")? + by_reason(stats, "drops")?)?;
    for rule in list(stats, "rules") {
        let id = rule.get("id").unwrap_or(&Value::Null);
        let mut accounted = 0;
        for output in list(rule, "outputs") {
            let errors = number(output, "errors")?;
            equal(&format!("rule {id}: errors = drops of an output"), errors, by_reason(output, "drops")?)?;
            accounted += number(output, "packets")? + errors;
        }
        equal(&format!("rule {id}: due = packets + errors of its outputs"), number(rule, "due")?, accounted)?;
    }
    Ok(())
}

fn equal(what: &str, left: u64, right: u64) -> Result<(), String> {
    if left == right {
        Ok(())
    } else {
        Err(format!("accounting identity broken: {what}: {left} ≠ {right}"))
    }
}

fn list<'a>(value: &'a Value, name: &str) -> impl Iterator<Item = &'a Value> {
    value.get(name).and_then(Value::as_array).into_iter().flatten()
}

fn number(value: &Value, name: &str) -> Result<u64, String> {
    value.get(name).and_then(Value::as_u64).ok_or_else(|| format!("no number {name:?} in {value}"))
}

fn by_reason(value: &Value, name: &str) -> Result<u64, String> {
    let reasons = value.get(name).and_then(Value::as_object);
    let reasons = reasons.ok_or_else(|| format!("no object {name:?} in {value}"))?;
    reasons.values().map(|count| count.as_u64().ok_or_else(|| format!("{count} is not a count"))).sum()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn stats() -> Value {
        json!({
            "workers": [
                {"received": 10, "matched": 7, "due": 14, "sent": 12},
                {"received": 5, "matched": 5, "due": 5, "sent": 5}
            ],
            "past_workers": {"received": 4, "matched": 0, "due": 0, "sent": 0},
            "kernel": {"received": 3, "matched": 3, "due": 6, "sent": 4, "drops": {"queue_full": 2}},
            "skips": {"vlan": 1, "no_match": 6},
            "drops": {"send_buffer_full": 2, "queue_full": 2},
            "rules": [{"id": "1", "due": 19, "outputs": [
                {"packets": 10, "errors": 2, "drops": {"send_buffer_full": 2}},
                {"packets": 7, "errors": 0, "drops": {}}
            ]}]
        })
    }

    #[test]
    fn consistent_statistics_pass() {
        assert_accounting(&stats());
    }

    #[test]
    fn each_counter_that_is_off_by_one_is_detected() {
        for path in [
            "/workers/0/received",
            "/kernel/received",
            "/kernel/due",
            "/kernel/drops/queue_full",
            "/workers/1/matched",
            "/past_workers/received",
            "/workers/0/due",
            "/workers/1/sent",
            "/skips/vlan",
            "/drops/send_buffer_full",
            "/rules/0/due",
            "/rules/0/outputs/0/errors",
            "/rules/0/outputs/1/packets",
            "/rules/0/outputs/0/drops/send_buffer_full",
        ] {
            let mut stats = stats();
            let count = stats.pointer_mut(path).unwrap();
            *count = json!(count.as_u64().unwrap() + 1);
            assert!(check(&stats).is_err(), "{path}");
        }
    }

    #[test]
    fn a_missing_count_is_found() {
        let mut stats = stats();
        stats["workers"][0].as_object_mut().unwrap().remove("sent");
        assert!(check(&stats).unwrap_err().contains("sent"));
    }
}
