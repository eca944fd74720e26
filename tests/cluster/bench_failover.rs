//! The smallest `bench failover`: what it says of data must hold on any machine, however slow.

use std::fs;
use std::path::PathBuf;

use domicile::Haste;
use domicile_server::bench::{self, Bench, BenchOptions, FailoverOptions, FailoverPart};
use serde_json::Value;

/// Runs a part once; its result.json.
fn measure(part: FailoverPart) -> Value {
    let out = tempfile::tempdir().unwrap();
    let options = BenchOptions {
        rtt: "20".to_owned(),
        out: Some(out.path().to_owned()),
        program: Some(PathBuf::from(env!("CARGO_BIN_EXE_domicile"))),
        failover: FailoverOptions {
            parts: vec![part],
            takeovers: 1,
            switchovers: 1,
            haste: Haste::Aggressive,
            ..FailoverOptions::default()
        },
        ..BenchOptions::new(Bench::Failover)
    };
    // Targets of speed may be missed here.
    let _of_speed = bench::run(&options).unwrap();
    let text = fs::read_to_string(out.path().join("result.json")).unwrap();
    serde_json::from_str(&text).unwrap()
}

fn assert_safe(result: &Value) {
    for check in result["checks"].as_array().unwrap() {
        let is_kept = check["kind"] != "safety" || check["verdict"] == "pass";
        assert!(is_kept, "{check}");
    }
}

#[test]
#[ignore = "three processes and half a minute; the bench is run by hand"]
fn a_home_is_lost_and_the_report_is_the_clients_list() {
    let result = measure(FailoverPart::Takeover);
    assert_safe(&result);
    let run = &result["rows"][0];
    assert_eq!(run["region"], "a", "{run}");
    for client in [0, 1] {
        let rto_ms = run["rto_ms"][client].as_f64().unwrap();
        assert!(rto_ms > 100.0, "{run}");
    }
    assert!(run["acked"].as_u64().unwrap() > 0, "{run}");
}

#[test]
#[ignore = "three processes and half a minute; the bench is run by hand"]
fn homes_are_handed_on_and_every_client_has_a_pause() {
    let result = measure(FailoverPart::Switchover);
    assert_safe(&result);
    let switched = &result["rows"][0];
    assert_eq!(switched["moved"], 8, "{switched}");
    for client in switched["clients"].as_array().unwrap() {
        let (gap_ms, usual_ms) = (&client["gap_ms"], &client["usual_ms"]);
        assert!(
            gap_ms.as_f64().unwrap() >= usual_ms.as_f64().unwrap(),
            "{switched}"
        );
    }
}
