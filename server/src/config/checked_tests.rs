//! Tests of the checks: what is accepted means what it should, what is wrong is named.
//!
//! **Owns**: configurations as text, good and bad.
//! **Does not own**: syntax and unknown keys (tests beside `given`).

use std::path::Path;

use domicile_proto::{AckLevel, BufferLimit, Failover, OnTimeout, Placement};

use super::*;

/// Three regions, own region `eu`.
const CLUSTER: &str = r#"
[cluster]
name = "shop"
[node]
region = "eu"
[[region]]
name = "eu"
peer = "10.0.0.1:7401"
[[region]]
name = "us"
peer = "http://10.0.0.2:7401"
[[region]]
name = "ap"
id = 77
peer = "ap.example:7401"
"#;

fn check(text: &str) -> Result<Config, ConfigError> {
    let given = Given::parse(Path::new("domicile.toml"), text)?;
    Config::check(&given, Faults::default())
}

fn refused(text: &str) -> String {
    check(text).expect_err(text).to_string()
}

#[test]
fn nothing_given_is_one_region_that_works() {
    let config = check("").unwrap();
    assert_eq!(
        (config.node.region.as_str(), config.node.regions.len()),
        ("local", 1)
    );
    assert_eq!(config.node.keyspaces[0].name.as_str(), "default");
    assert_eq!(config.node.listen, None);
    assert_eq!(config.listen_client.to_string(), "127.0.0.1:7400");
    assert_eq!(config.node.data, Path::new("domicile-data"));
    assert_eq!(config.limits, FrontLimits::default());
}

#[test]
fn a_cluster_means_what_it_says() {
    let text = format!(
        r#"{CLUSTER}
[[keyspace]]
name = "users"
ack = "sync:2"
on_timeout = "degrade"
ack_timeout_ms = 700
max_rpo_ms = 1500
failover = "read_only"
successors = ["ap", "us"]
buckets = 16
delimiter = ":"
placement = {{ rule = {{ "eu-" = "eu", "us-" = "us" }}, otherwise = "ap" }}
[[keyspace]]
name = "carts"
regions = ["us", "eu"]
placement = {{ hash = true }}
failover = "buffer"
buffer_ms_max = 90000
"#
    );
    let config = check(&text).unwrap();
    assert_eq!(config.node.listen.unwrap().to_string(), "127.0.0.1:7401");
    let addresses = config
        .node
        .regions
        .iter()
        .map(|region| region.peer_address.as_deref());
    let addresses: Vec<_> = addresses.collect();
    assert_eq!(
        addresses,
        [
            None,
            Some("http://10.0.0.2:7401"),
            Some("http://ap.example:7401")
        ]
    );
    assert_eq!(config.node.regions[2].id.get(), 77);
    let [users, carts] = &config.node.keyspaces[..] else {
        panic!("two keyspaces expected")
    };
    assert_eq!(users.ack, "sync:2".parse::<AckLevel>().unwrap());
    assert_eq!(
        (users.on_timeout, users.buckets.get()),
        (OnTimeout::Degrade, 16)
    );
    assert_eq!(
        (users.delimiter, users.ack_timeout),
        (b':', Duration::from_millis(700))
    );
    assert_eq!(users.max_rpo.age, Some(Duration::from_millis(1500)));
    assert_eq!(users.failover, Failover::ReadOnly);
    assert_eq!(users.successors[0].get(), 77);
    assert_eq!(
        users.partition_of(b"us-7:x").region,
        config.node.regions[1].id
    );
    assert_eq!(users.partition_of(b"other").region.get(), 77);
    assert_eq!((carts.copies(), &carts.placement), (1, &Placement::Hash));
    let limit = BufferLimit {
        age: Duration::from_secs(90),
        ..BufferLimit::default()
    };
    assert_eq!(carts.failover, Failover::Buffer(limit));
}

#[test]
fn regions_that_do_not_fit_are_named() {
    let keyspace = "[[keyspace]]\nname = \"users\"\n";
    let with = |text: &str| refused(&format!("{CLUSTER}{text}{keyspace}"));
    assert!(
        with("[[region]]\nname = \"us\"\npeer = \"a:1\"\n").contains("region.us: listed twice")
    );
    assert!(with("[[region]]\nname = \"me\"\n").contains("region.me.peer: missing"));
    assert!(with("[[region]]\nname = \"Me\"\npeer = \"a:1\"\n").contains("invalid name"));
    assert!(with("[[region]]\nname = \"me\"\nid = 0\npeer = \"a:1\"\n").contains("region id: 0"));
    assert!(with("[[region]]\nname = \"me\"\nid = 77\npeer = \"a:1\"\n").contains("is that of ap"));
    for bad in [
        "https://a:1",
        "a",
        "a:0",
        "a:x",
        ":1",
        "a b:1",
        "http://a:1/path",
    ] {
        let text = format!("[[region]]\nname = \"me\"\npeer = \"{bad}\"\n");
        assert!(with(&text).contains("region.me.peer"), "{bad} was accepted");
    }
    let own = CLUSTER.replace("region = \"eu\"\n", "region = \"me\"\n");
    assert!(refused(&format!("{own}{keyspace}")).contains("node.region: me is not among"));
    let unknown = CLUSTER.replace("region = \"eu\"\n", "");
    let unknown = refused(&format!("{unknown}{keyspace}"));
    assert!(
        unknown.contains("node.region: missing, one of eu, us, ap"),
        "{unknown}"
    );
}

#[test]
fn keyspaces_that_do_not_fit_are_named() {
    let with = |text: &str| refused(&format!("{CLUSTER}[[keyspace]]\nname = \"users\"\n{text}"));
    assert!(refused(CLUSTER).contains("keyspace: none given"));
    assert!(with("ack = \"most\"").contains("keyspace.users.ack: invalid ack level"));
    assert!(with("ack = \"semi-sync:3\"").contains("needs 3 other regions"));
    assert!(with("on_timeout = \"wait\"").contains("keyspace.users.on_timeout: \"wait\""));
    assert!(with("regions = []").contains("no regions"));
    assert!(with("regions = [\"eu\", \"mars\"]").contains("no region \"mars\", there are eu, us"));
    assert!(with("regions = [\"eu\", \"eu\"]").contains("distinct"));
    assert!(with("buckets = 0").contains("keyspace.users.buckets: 0"));
    assert!(with("buckets = 2000").contains("buckets is 2000"));
    assert!(with("delimiter = \"--\"").contains("one byte expected"));
    assert!(with("max_rpo_ms = 0").contains("keyspace.users.max_rpo_ms: 0 would refuse"));
    assert!(with("failover = \"keep\"").contains("expected promote, read_only or buffer"));
    let caps = with("buffer_bytes_max = 9000000");
    assert!(caps.contains("keyspace.users.buffer_bytes_max: given without failover"));
    let small = with("failover = \"buffer\"\nbuffer_bytes_max = 8388607");
    assert!(small.contains("buffer_bytes_max is 8388607, allowed 8388608"));
    let long = with("failover = \"buffer\"\nbuffer_ms_max = 604800001");
    assert!(long.contains("buffer_ms_max is 604800001, allowed 1 to 604800000"));
    assert!(with("placement = {}").contains("exactly one of"));
    assert!(with("placement = { hash = false }").contains("exactly one of"));
    assert!(with("placement = { hash = true, pinned = \"eu\" }").contains("exactly one of"));
    assert!(with("placement = { rule = { a = \"eu\" } }").contains("without otherwise"));
    let outside = with("regions = [\"eu\", \"us\"]\nplacement = { pinned = \"ap\" }");
    assert!(
        outside.contains("which its regions do not list"),
        "{outside}"
    );
    let twice = with("[[keyspace]]\nname = \"users\"");
    assert!(twice.contains("keyspace.users: its id"), "{twice}");
}

#[test]
fn keyspace_names_with_the_same_crc_are_refused() {
    // Two names whose CRC-32 is the same.
    let (one, other) = ("plumless", "buckeroo");
    assert_eq!(
        domicile_proto::KeyspaceId::of(&Name::new(one).unwrap()),
        domicile_proto::KeyspaceId::of(&Name::new(other).unwrap())
    );
    let text = format!("[[keyspace]]\nname = \"{one}\"\n[[keyspace]]\nname = \"{other}\"\n");
    assert!(refused(&text).contains("is that of plumless"));
}

#[test]
fn an_engine_is_taken_if_this_build_has_it() {
    let text = |word| format!("[node]\nengine = \"{word}\"\n");
    for engine in Engine::ALL {
        let word = engine.word();
        if engine.is_built() {
            assert_eq!(check(&text(word)).unwrap().node.engine, engine);
        } else {
            let expected = format!("is not in this build, which lacks the cargo feature `{word}`");
            assert!(refused(&text(word)).contains(&expected));
        }
    }
    assert!(refused(&text("rocks")).contains("expected one of sled, fjall, memory"));
}

#[test]
fn all_faults_are_told_at_once() {
    let text = "[node]\nengine = \"rocks\"\nlisten_client = \"here\"\noverlay_bytes_max = 1\n\
                [limits]\nconnections_max = 0\n[log]\nformat = \"xml\"\nfilter = \"a=b=c\"\n";
    let refused = refused(text);
    let keys = [
        "node.listen_client",
        "limits.connections_max: 0, expected 1 to 100000",
        "log.format",
        "log.filter",
        "node.engine",
    ];
    for key in keys {
        assert!(refused.contains(key), "{key} is missing in\n{refused}");
    }
}

#[test]
fn the_two_listeners_need_two_ports() {
    let text = CLUSTER.replace("[node]\n", "[node]\nlisten_client = \"127.0.0.1:7401\"\n");
    let text = format!("{text}[[keyspace]]\nname = \"users\"\n");
    assert!(refused(&text).contains("node.listen_peer: 127.0.0.1:7401 is node.listen_client"));
}

#[test]
fn metrics_have_a_port_of_their_own_or_none() {
    let with = |http: &str| format!("[node]\nlisten_http = \"{http}\"\n");
    let at = |text: &str| check(text).unwrap().listen_http.map(|at| at.to_string());
    assert_eq!(at("").as_deref(), Some("127.0.0.1:7480"));
    assert_eq!(at(&with("127.0.0.1:9")).as_deref(), Some("127.0.0.1:9"));
    assert_eq!(at(&with("")), None);
    let taken = refused(&with("127.0.0.1:7400"));
    assert!(
        taken.contains("node.listen_http: 127.0.0.1:7400 is node.listen_client"),
        "{taken}"
    );
    assert!(refused(&with("here")).contains("node.listen_http: \"here\""));
}

/// Whatever a file says, the answer is a configuration or a refusal in words.
#[test]
fn fuzz_files() {
    let valid = [
        CLUSTER.as_bytes().to_vec(),
        b"[node]\ndata = \"d\"\n".to_vec(),
    ];
    crate::fuzz_tests::attack(&valid, &|bytes| {
        if let Err(refused) = check(&String::from_utf8_lossy(bytes)) {
            assert!(!refused.to_string().is_empty());
        }
    });
}
