//! Faults of regions and of pairs of regions, over real sockets.

use std::io::Write;
use std::net::{SocketAddr, TcpListener};

use super::tests::{
    accept, assert_passes, assert_refused, assert_reset, connect, local, ms, read_bytes, wait_until,
};
use super::{REGIONS_MAX, Route, Wan, WanError};

fn three_regions(target: SocketAddr) -> Wan {
    let rtts = [("a", "b", ms(6)), ("a", "c", ms(4)), ("b", "c", ms(14))];
    Wan::mesh(&rtts, |_, _| Route::to(target)).unwrap()
}

#[test]
fn a_mesh_has_a_link_for_every_ordered_pair() {
    let listener = TcpListener::bind(local(0)).unwrap();
    let wan = three_regions(listener.local_addr().unwrap());
    assert_eq!(wan.regions().collect::<Vec<_>>(), ["a", "b", "c"]);
    for (from, to, rtt) in [("a", "b", 6), ("b", "a", 6), ("c", "a", 4), ("c", "b", 14)] {
        assert_eq!(wan.link(from, to).unwrap().conditions().rtt(), ms(rtt));
    }
    wan.set_rtt("c", "b", ms(40)).unwrap();
    assert_eq!(
        wan.link("b", "c").unwrap().conditions().forward_delay,
        ms(20)
    );
    assert_eq!(
        wan.link("c", "b").unwrap().conditions().backward_delay,
        ms(20)
    );
    assert_eq!(wan.link("c", "a").unwrap().conditions().rtt(), ms(4));
    wan.set_target("b", local(9)).unwrap();
    assert_eq!(wan.link("c", "b").unwrap().target(), Some(local(9)));
    assert_eq!(
        wan.link("b", "c").unwrap().target(),
        Some(listener.local_addr().unwrap())
    );

    assert!(matches!(
        wan.link("a", "a"),
        Err(WanError::UnknownLink { .. })
    ));
    assert!(matches!(
        wan.isolate("d"),
        Err(WanError::UnknownRegion { .. })
    ));
    let later = |_: &str, _: &str| Route::later();
    let missing = Wan::mesh(&[("a", "b", ms(1)), ("b", "c", ms(1))], later);
    assert!(
        matches!(missing, Err(WanError::MissingRtt { .. })),
        "{missing:?}"
    );
    let repeated = Wan::mesh(&[("a", "b", ms(1)), ("b", "a", ms(1))], later);
    assert!(
        matches!(repeated, Err(WanError::RepeatedRtt { .. })),
        "{repeated:?}"
    );
    let names: Vec<String> = (0..=REGIONS_MAX).map(|number| number.to_string()).collect();
    let many: Vec<_> = names
        .iter()
        .map(|name| ("x", name.as_str(), ms(1)))
        .collect();
    let too_many = Wan::mesh(&many, later);
    assert!(
        matches!(too_many, Err(WanError::TooManyRegions { .. })),
        "{too_many:?}"
    );
}

#[test]
fn an_isolated_region_is_cut_from_all_others_and_heals_only_towards_the_living() {
    let listener = TcpListener::bind(local(0)).unwrap();
    let wan = three_regions(listener.local_addr().unwrap());
    let open = |from, to| {
        let client = connect(wan.link(from, to).unwrap().address());
        (client, accept(&listener))
    };
    let refused = |from, to| assert_refused(wan.link(from, to).unwrap().address());
    let (out, inward, other) = (open("a", "b"), open("c", "a"), open("b", "c"));

    wan.isolate("a").unwrap();
    for stream in [&out.0, &out.1, &inward.0, &inward.1] {
        assert_reset(stream);
    }
    assert_passes(&other.0, &other.1);
    refused("a", "c");
    refused("b", "a");

    wan.isolate("b").unwrap();
    assert_reset(&other.0);
    wan.heal("a").unwrap();
    refused("a", "b");
    refused("b", "a");
    let (client, target) = open("c", "a");
    assert_passes(&client, &target);
    wan.heal("b").unwrap();
    let (client, target) = open("b", "a");
    assert_passes(&client, &target);
}

#[test]
fn a_one_way_cut_between_regions_concerns_the_links_of_both() {
    let listener = TcpListener::bind(local(0)).unwrap();
    let wan = three_regions(listener.local_addr().unwrap());
    let open = |from, to| {
        let client = connect(wan.link(from, to).unwrap().address());
        (client, accept(&listener))
    };
    let ((a_dials, b_answers), (b_dials, a_answers)) = (open("a", "b"), open("b", "a"));

    wan.cut_one_way("a", "b").unwrap();
    (&a_dials).write_all(b"1").unwrap();
    (&a_answers).write_all(b"2").unwrap();
    wait_until("bytes from a to b are held", || {
        let held = wan.link("a", "b").unwrap().stats().forward_buffered_bytes;
        held + wan.link("b", "a").unwrap().stats().backward_buffered_bytes == 2
    });
    assert_passes(&b_answers, &a_dials);
    assert_passes(&b_dials, &a_answers);
    wan.heal_between("b", "a").unwrap();
    assert_eq!(&read_bytes::<1>(&b_answers), b"1");
    assert_eq!(&read_bytes::<1>(&b_dials), b"2");

    wan.silence("b").unwrap();
    (&a_dials).write_all(b"3").unwrap();
    (&b_dials).write_all(b"4").unwrap();
    for (from, to) in [("a", "b"), ("b", "a")] {
        wait_until("it is held", || {
            wan.link(from, to).unwrap().stats().forward_buffered_bytes == 1
        });
    }
    wan.heal("b").unwrap();
    assert_eq!(&read_bytes::<1>(&b_answers), b"3");
    assert_eq!(&read_bytes::<1>(&a_answers), b"4");
    wan.cut_between("a", "b").unwrap();
    assert_reset(&a_dials);
    assert_reset(&b_dials);
}
