//! Tampered bytes for what clients and operators give.
//!
//! **Owns**: how much memory a decoder of this crate may take.
//! **Does not own**: the tampering (`proto`), the tests (beside each decoder).

use domicile_proto::hostile::Target;

/// Cases of each target: well under a second for most. More find more.
const CASES: u64 = 2_000;

/// Bytes in memory for each of a case's: its copy, and what is decoded from it.
const MEMORY_PER_BYTE: usize = 64;

/// The buffers of a reader of rows: 1 MiB, and what the parsers keep.
const MEMORY_FLAT: usize = 2 << 20;

fn held(run: &mut dyn FnMut()) -> u64 {
    allocation_counter::measure(run).bytes_max
}

/// Gives `decode` every case of what it accepts and of what is nearly that.
pub(crate) fn attack(valid: &[Vec<u8>], decode: &dyn Fn(&[u8])) {
    let target = Target {
        command: "cargo test -p domicile-server fuzz",
        cases: CASES,
        valid,
        seal: &domicile_proto::hostile::unsealed,
        memory_per_byte: MEMORY_PER_BYTE,
        memory_flat: MEMORY_FLAT,
    };
    target.attack(held, decode);
}
