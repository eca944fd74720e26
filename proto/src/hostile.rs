//! Bytes that nobody vouches for, for the tests of every decoder (feature `hostile`).
//!
//! **Owns**: random bytes, valid bytes that were tampered with, the loop over both, its bounds.
//! **Does not own**: the decoders; what their answer to a case has to be (the test).
//!
//! Half of a checksum's worth is what it hides: the code behind it has only ever seen honest bytes.
//! So a target may seal a case again after it was tampered with. The variable
//! `DOMICILE_FUZZ_CASES` sets how many cases a target is given, `DOMICILE_FUZZ_SEED` runs one.

use std::any::Any;
use std::fmt::Write as _;
use std::panic::{AssertUnwindSafe, catch_unwind};

use crate::segment::SEGMENT_HEADER_BYTES;

/// Longest run of bytes that is made up or inserted: longer than every header of the formats.
const RUN_BYTES_MAX: u64 = 160;

/// Changes of one case. More make a case that fails at its first bytes.
const CHANGES_MAX: u64 = 4;

/// Fields of four bytes in a header: the longest one that a checksum ends has 100 bytes.
const HEADER_FIELDS: usize = 25;

/// Bytes of a failed case that are shown; longer ones are repeated by their seed.
const SHOWN_BYTES_MAX: usize = 512;

/// Numbers at which lengths, counts and places go wrong.
const BOUNDARIES: [u64; 16] = [
    0,
    1,
    2,
    0x7f,
    0xff,
    0x100,
    0xffff,
    0x1_0000,
    1 << 20,
    1 << 24,
    0x7fff_ffff,
    0xffff_ffff,
    1 << 32,
    i64::MAX as u64,
    u64::MAX - 1,
    u64::MAX,
];

/// Numbers from a seed (splitmix64): the same seed, the same case.
#[derive(Debug, Clone)]
pub struct Chance(u64);

impl Chance {
    /// The numbers of this seed.
    #[must_use]
    pub const fn of(seed: Seed) -> Self {
        Self(seed.0)
    }

    /// Any 64 bits.
    pub fn bits(&mut self) -> [u8; 8] {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (mixed ^ (mixed >> 31)).to_le_bytes()
    }

    /// A place below `end`, which is not 0.
    pub fn below(&mut self, end: usize) -> usize {
        self.under(end as u64) as usize
    }

    fn under(&mut self, end: u64) -> u64 {
        assert!(end > 0, "no number is below 0");
        u64::from_le_bytes(self.bits()) % end
    }

    fn run(&mut self) -> Vec<u8> {
        let len = self.under(RUN_BYTES_MAX);
        (0..len).map(|_| self.bits()[0]).collect()
    }
}

/// Which case of a target.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Seed(u64);

impl Seed {
    /// The case with this number.
    #[must_use]
    pub const fn new(number: u64) -> Self {
        Self(number)
    }
}

/// A decoder under attack.
pub struct Target<'a> {
    /// The command that runs its test.
    pub command: &'a str,
    /// Cases it is given unless told otherwise.
    pub cases: u64,
    /// What it accepts; one form of each kind.
    pub valid: &'a [Vec<u8>],
    /// Puts the checksums right again; does nothing where there are none.
    pub seal: &'a dyn Fn(&mut Vec<u8>),
    /// Bytes that a case may hold in memory for each of its own.
    pub memory_per_byte: usize,
    /// Bytes that a case may hold in memory besides.
    pub memory_flat: usize,
}

/// For formats without a checksum.
pub fn unsealed(_: &mut Vec<u8>) {}

/// Puts the two checksums of a segment right that begins `bytes`, as far as there is one.
pub fn seal_segment(bytes: &mut [u8]) {
    let Some(len) = bytes.get(44..48) else { return };
    let len = u32::from_le_bytes([len[0], len[1], len[2], len[3]]) as usize;
    if bytes.len() < SEGMENT_HEADER_BYTES {
        return;
    }
    let end = SEGMENT_HEADER_BYTES.saturating_add(len).min(bytes.len());
    let mut whole = crc32fast::Hasher::new();
    whole.update(&bytes[..64]);
    whole.update(&bytes[SEGMENT_HEADER_BYTES..end]);
    bytes[64..68].copy_from_slice(&whole.finalize().to_le_bytes());
    let header = crc32fast::hash(&bytes[..68]);
    bytes[68..72].copy_from_slice(&header.to_le_bytes());
}

/// Puts the checksum right that ends `bytes`.
pub fn seal_end(bytes: &mut Vec<u8>) {
    bytes.truncate(bytes.len().saturating_sub(4));
    let crc = crc32fast::hash(bytes);
    bytes.extend(crc.to_le_bytes());
}

impl Target<'_> {
    /// Gives the decoder every case. `measure` runs what it is given and says how many bytes that
    /// had allocated at once at most; `decode` decodes, and checks what it can of the outcome.
    ///
    /// # Panics
    /// If a case panics or takes more memory than it may: with its seed, and how to repeat it.
    pub fn attack(&self, measure: fn(&mut dyn FnMut()) -> u64, decode: &dyn Fn(&[u8])) {
        for bytes in self.valid {
            self.try_case("valid", bytes, measure, decode);
        }
        let number = |name| std::env::var(name).ok().and_then(|text| text.parse().ok());
        let seeds = match number("DOMICILE_FUZZ_SEED") {
            Some(seed) => seed..=seed,
            None => 1..=number("DOMICILE_FUZZ_CASES").unwrap_or(self.cases),
        };
        for seed in seeds {
            let bytes = self.case(Seed(seed));
            self.try_case(&format!("seed {seed}"), &bytes, measure, decode);
        }
    }

    fn try_case(
        &self,
        name: &str,
        bytes: &[u8],
        measure: fn(&mut dyn FnMut()) -> u64,
        decode: &dyn Fn(&[u8]),
    ) {
        let mut outcome = Ok(());
        let held = measure(&mut || {
            outcome = catch_unwind(AssertUnwindSafe(|| decode(bytes)));
        });
        let limit = self.memory_flat + self.memory_per_byte * bytes.len();
        let problem = match &outcome {
            Err(cause) => message(cause.as_ref()).to_owned(),
            Ok(()) if held > limit as u64 => format!("{held} bytes allocated, limit {limit}"),
            Ok(()) => return,
        };
        let mut shown = String::new();
        for byte in bytes.iter().take(SHOWN_BYTES_MAX) {
            write!(shown, "{byte:02x}").expect("a string takes all");
        }
        let seed = name.rsplit(' ').next().unwrap_or(name);
        panic!(
            "{name}, {} bytes: {problem}\n{shown}\nrepeat: DOMICILE_FUZZ_SEED={seed} {}",
            bytes.len(),
            self.command
        );
    }

    /// The bytes of a case: one in eight made up, the others valid ones that were tampered with,
    /// and of these three in four sealed again.
    #[must_use]
    pub fn case(&self, seed: Seed) -> Vec<u8> {
        let mut chance = Chance::of(seed);
        if self.valid.is_empty() || chance.below(8) == 0 {
            return chance.run();
        }
        let mut bytes = self.valid[chance.below(self.valid.len())].clone();
        for _ in 0..=chance.under(CHANGES_MAX) {
            let other = &self.valid[chance.below(self.valid.len())];
            tamper(&mut bytes, other, &mut chance);
        }
        if chance.below(4) != 0 {
            (self.seal)(&mut bytes);
        }
        bytes
    }
}

/// Changes bytes as a faulty disk, a faulty build or an attacker would.
pub fn tamper(bytes: &mut Vec<u8>, other: &[u8], chance: &mut Chance) {
    let at = place(bytes, chance);
    let upto = at + chance.below(bytes.len() - at + 1);
    match chance.below(9) {
        0 => bytes.truncate(at),
        1 => bytes.extend(chance.run()),
        2 => drop(bytes.drain(at..upto.min(at + 8))),
        3 => drop(bytes.splice(at..at, chance.run())),
        4 => {
            let from = chance.below(other.len() + 1);
            drop(bytes.splice(at..upto, other[from..].iter().copied()));
        }
        5 | 6 => put_boundary(&mut bytes[at..], chance),
        7 => {
            if let Some(byte) = bytes.get_mut(at) {
                *byte = chance.bits()[0];
            }
        }
        _ => {
            if let Some(byte) = bytes.get_mut(at) {
                *byte ^= 1 << chance.below(8);
            }
        }
    }
}

/// Where to change them: every second time in a field of a header, of which a file has few bytes
/// and all the meaning. Headers begin with the bytes, or with a magic of four capitals.
fn place(bytes: &[u8], chance: &mut Chance) -> usize {
    let anywhere = chance.below(bytes.len() + 1);
    if chance.below(2) == 0 {
        return anywhere;
    }
    let magics = bytes.windows(4).enumerate();
    let magics = magics.filter(|(_, magic)| magic.iter().all(u8::is_ascii_uppercase));
    let mut headers: Vec<usize> = magics.map(|(at, _)| at).collect();
    headers.push(0);
    let field = headers[chance.below(headers.len())] + 4 * chance.below(HEADER_FIELDS);
    field.min(bytes.len())
}

/// Overwrites an integer of some width and byte order.
fn put_boundary(bytes: &mut [u8], chance: &mut Chance) {
    let mut number = BOUNDARIES[chance.below(BOUNDARIES.len())];
    if chance.below(4) == 0 {
        // One more or less than all that is left: lengths are checked against it.
        number = bytes.len() as u64 + chance.under(3) - 1.min(bytes.len() as u64);
    }
    // Most fields of the formats have four bytes or eight.
    let width = [1, 2, 4, 4, 8, 8][chance.below(6)];
    let Some(field) = bytes.get_mut(..width) else {
        return;
    };
    if chance.below(2) == 0 {
        field.copy_from_slice(&number.to_le_bytes()[..width]);
    } else {
        field.copy_from_slice(&number.to_be_bytes()[8 - width..]);
    }
}

fn message(cause: &(dyn Any + Send)) -> &str {
    let text = cause.downcast_ref::<String>().map(String::as_str);
    text.or_else(|| cause.downcast_ref::<&str>().copied())
        .unwrap_or("a panic without words")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn target<'a>(valid: &'a [Vec<u8>], seal: &'a dyn Fn(&mut Vec<u8>)) -> Target<'a> {
        Target {
            command: "cargo test -p here",
            cases: 2_000,
            valid,
            seal,
            memory_per_byte: 1,
            memory_flat: 0,
        }
    }

    fn failure(target: &Target<'_>, decode: &dyn Fn(&[u8]), bytes: u64) -> String {
        let measure: fn(&mut dyn FnMut()) -> u64 = match bytes {
            0 => |run| {
                run();
                0
            },
            _ => |run| {
                run();
                u64::MAX
            },
        };
        let failed = catch_unwind(AssertUnwindSafe(|| target.attack(measure, decode)));
        message(failed.unwrap_err().as_ref()).to_owned()
    }

    #[test]
    fn a_failing_case_says_how_to_repeat_it() {
        let valid = [b"four".to_vec()];
        let target = target(&valid, &unsealed);
        let first = (1..).find(|seed| target.case(Seed(*seed)).len() > 20);
        let told = failure(&target, &|bytes| assert!(bytes.len() <= 20, "long"), 0);
        let seed = first.unwrap();
        assert!(told.starts_with(&format!("seed {seed}, ")), "{told}");
        let command = format!("repeat: DOMICILE_FUZZ_SEED={seed} cargo test -p here");
        assert!(
            told.contains(": long\n") && told.contains(&command),
            "{told}"
        );
        let told = failure(&target, &|_| (), 1);
        assert!(told.contains("bytes allocated, limit 4"), "{told}");
    }

    #[test]
    fn a_seed_is_a_case_and_seals_are_put_on_most() {
        let valid = [vec![7; 40], vec![9; 12]];
        let sealed = |bytes: &mut Vec<u8>| bytes.extend(b"sealed");
        let target = target(&valid, &sealed);
        let cases: Vec<_> = (0..1_000).map(|seed| target.case(Seed(seed))).collect();
        let again: Vec<_> = (0..1_000).map(|seed| target.case(Seed(seed))).collect();
        assert_eq!(cases, again);
        let sealed = cases.iter().filter(|case| case.ends_with(b"sealed"));
        assert!((500..800).contains(&sealed.count()));
        let max = cases
            .iter()
            .filter(|case| case.windows(4).any(|at| at == [0xff; 4]));
        assert!(max.count() > 20, "boundaries are put");
    }
}
