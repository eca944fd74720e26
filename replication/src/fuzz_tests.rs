//! Tampered bytes for what peers send.
//!
//! **Owns**: how much memory a decoder of this crate may take.
//! **Does not own**: the tampering (`proto`), the tests (beside each decoder).

use domicile_proto::hostile::Target;

/// Cases of each target: well under a second for most. More find more.
const CASES: u64 = 10_000;

/// Bytes in memory for each of a case's: its copy, and what is decoded from it.
const MEMORY_PER_BYTE: usize = 64;

/// The largest frame that [`FRAME_BYTES_MAX`] lets grow, and messages of errors.
const MEMORY_FLAT: usize = FRAME_BYTES_MAX + (16 << 10);

/// Bytes that a compressed frame may grow to in these tests.
pub(crate) const FRAME_BYTES_MAX: usize = 1 << 16;

fn held(run: &mut dyn FnMut()) -> u64 {
    allocation_counter::measure(run).bytes_max
}

/// Gives `decode` every case of what it accepts and of what is nearly that.
pub(crate) fn attack(valid: &[Vec<u8>], decode: &dyn Fn(&[u8])) {
    let target = Target {
        command: "cargo test -p domicile-replication fuzz",
        cases: CASES,
        valid,
        seal: &domicile_proto::hostile::unsealed,
        memory_per_byte: MEMORY_PER_BYTE,
        memory_flat: MEMORY_FLAT,
    };
    target.attack(held, decode);
}
