//! I16: a store that has failed acknowledges nothing new.
//!
//! **Owns**: that.
//! **Does not own**: damage that an open finds (`node`).

use domicile_core::Receipt;

use crate::scene::Scene;

pub(crate) fn acked(node: usize, receipt: &Receipt, is_poisoned: bool, scene: &mut Scene) {
    if is_poisoned && !receipt.duplicate {
        let problem = format!("n{node} acknowledges {receipt:?} after its store has failed");
        scene.fail("I16 fail-stop", problem);
    }
}
