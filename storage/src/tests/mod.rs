//! The store as a whole, on the disk in memory and on the real one.

mod damage;
mod directory;
mod fixture;
mod fuzz;
mod install;
mod model;
mod planted;
mod power;
mod reading;
mod snapshots;
mod speed;
mod unhurried;
mod writing;
