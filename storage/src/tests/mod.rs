//! The store as a whole, on the disk in memory and on the real one.

mod aftermath;
mod backup;
mod damage;
mod directory;
mod engines;
mod fixture;
mod fuzz;
mod install;
mod model;
mod orphans;
mod orphans_rules;
mod planted;
mod power;
mod reading;
mod scrub;
mod snapshots;
mod speed;
mod stalls;
mod unhurried;
mod writing;
