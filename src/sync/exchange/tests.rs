//! Laws of the exchange, over real artifacts with real signatures and places in memory.

mod converge;
mod cut;
mod damage;
mod finding;
mod fleet;
mod floor;
mod hostile;
mod matrix;
mod policy;
