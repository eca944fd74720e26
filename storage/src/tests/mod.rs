//! The store as a whole, on the disk in memory and on the real one.

mod backup;
mod damage;
mod directory;
mod fixture;
mod install;
mod planted;
mod power;
mod reading;
mod snapshots;
mod speed;
mod unhurried;
mod writing;
