//! The `qstore` binary from the outside: what it prints, what it leaves behind, and its exit status.

#[cfg(test)]
mod analyze;
#[cfg(test)]
mod bench;
#[cfg(test)]
mod commands;
#[cfg(test)]
mod demo;
#[cfg(test)]
mod pipes;
#[cfg(test)]
mod support;
#[cfg(test)]
mod targets;
#[cfg(test)]
mod usage;
