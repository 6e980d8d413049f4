//! How an engine is set up: its size, and the wasmtime configuration that follows from it.
//!
//! Every value here that changes compiled code is part of [`Engine::key`](crate::Engine::key);
//! sizes of the pool are not.

use std::thread::available_parallelism;

use nigh_model::limits::MEMORY_BYTES_MAX;
use wasmtime::{Config, Enabled, InstanceAllocationStrategy, PoolingAllocationConfig, Strategy};

use crate::Error;

/// Tables that one slot may hold: a component of Rust or C has two or three.
pub(crate) const TABLES_PER_SLOT: u32 = 8;
/// Core instances of one component; linked Python components have some tens.
const CORE_INSTANCES_MAX: u32 = 200;
/// Largest table, in elements: a linked Python interpreter needs some ten thousand.
pub(crate) const TABLE_ELEMENTS_MAX: usize = 100_000;
/// Largest bookkeeping of one instance, in bytes; wasmtime's own 1 MiB is near what Python needs.
const INSTANCE_BYTES_MAX: usize = 4 << 20;
/// Memory that a slot keeps for its next instance, in bytes, when only touched pages are reset.
const KEEP_RESIDENT_BYTES: usize = 1 << 20;
/// The same where the kernel cannot tell which pages were touched: all of it is reset each time.
const KEEP_RESIDENT_BYTES_BLIND: usize = 128 << 10;
/// Table memory that a slot keeps, in bytes.
const TABLE_KEEP_RESIDENT_BYTES: usize = 64 << 10;
/// Address space that the engines of one process may share, in bytes: 47 bits less a fifth for
/// everything else.
const ADDRESS_SPACE_BYTES: u64 = (1 << 47) / 5 * 4;

/// The size of an engine.
#[derive(Clone, Debug)]
pub struct EngineConfig {
    /// Instances at once.
    pub slots: u32,
    /// Threads that run guests, apart from all others.
    pub threads: usize,
    /// Most linear memory that any one guest may ask for, in bytes.
    pub memory_bytes_max: u64,
    /// Address space reserved per slot, in bytes.
    ///
    /// With 4 GiB, all that a 32-bit address reaches, compiled code needs no bounds checks. A
    /// slot takes this plus [`memory_guard_bytes`](Self::memory_guard_bytes): 1,000 slots are
    /// 3.9 TiB, and five engines of 1,000 slots in one process 19.7 TiB of the 128 that there
    /// are. Only beyond 25,000 slots per process a smaller reservation is worth its checks.
    pub memory_reservation_bytes: u64,
    /// Whether a component that is one module and the host's functions runs as that module alone.
    pub direct: bool,
    /// Unmapped address space behind each slot, in bytes: constant offsets below it need no check.
    pub memory_guard_bytes: u64,
}

impl Default for EngineConfig {
    fn default() -> Self {
        Self {
            slots: 1_000,
            threads: available_parallelism().map_or(1, usize::from),
            memory_bytes_max: MEMORY_BYTES_MAX,
            memory_reservation_bytes: 4 << 30,
            memory_guard_bytes: 32 << 20,
            direct: true,
        }
    }
}

impl EngineConfig {
    /// Checks that the numbers fit each other and the address space.
    pub(crate) fn check(&self) -> Result<(), Error> {
        let bad = |why: String| Err(Error::Config { why });
        if self.slots == 0 || self.threads == 0 {
            return bad("an engine needs at least one slot and one thread".into());
        }
        if self.memory_bytes_max > self.memory_reservation_bytes {
            return bad(format!(
                "memory of {} bytes does not fit a reservation of {} bytes",
                self.memory_bytes_max, self.memory_reservation_bytes
            ));
        }
        let slot_bytes = self.memory_reservation_bytes.saturating_add(self.memory_guard_bytes);
        if slot_bytes.saturating_mul(self.slots.into()) > ADDRESS_SPACE_BYTES {
            return bad(format!(
                "{} slots of {slot_bytes} bytes exceed the address space; use fewer slots or a \
                 smaller reservation",
                self.slots
            ));
        }
        Ok(())
    }

    /// The wasmtime configuration.
    pub(crate) fn wasmtime(&self) -> Config {
        let mut config = Config::new();
        config
            .strategy(Strategy::Cranelift)
            .epoch_interruption(true)
            .memory_reservation(self.memory_reservation_bytes)
            .memory_guard_size(self.memory_guard_bytes)
            .memory_may_move(false)
            // Component-model async is the part with most of the advisories, and costs 4 µs a call.
            .concurrency_support(false)
            .allocation_strategy(InstanceAllocationStrategy::Pooling(self.pool()));
        config
    }

    /// The pool: whatever the engine's admission lets in must fit.
    fn pool(&self) -> PoolingAllocationConfig {
        let touched_pages_known = PoolingAllocationConfig::is_pagemap_scan_available();
        let keep =
            if touched_pages_known { KEEP_RESIDENT_BYTES } else { KEEP_RESIDENT_BYTES_BLIND };
        let mut pool = PoolingAllocationConfig::new();
        pool.total_component_instances(self.slots)
            .total_core_instances(self.slots.saturating_mul(CORE_INSTANCES_MAX))
            .max_core_instances_per_component(CORE_INSTANCES_MAX)
            .total_memories(self.slots)
            .total_tables(self.slots.saturating_mul(TABLES_PER_SLOT))
            // One to run on, and one to allocate on for a function of the host that waits.
            .total_stacks(self.slots.saturating_mul(2))
            .max_component_instance_size(INSTANCE_BYTES_MAX)
            .max_core_instance_size(INSTANCE_BYTES_MAX)
            .max_memories_per_module(self.slots.min(8))
            .max_tables_per_module(TABLES_PER_SLOT)
            .max_memory_size(usize::try_from(self.memory_bytes_max).unwrap_or(usize::MAX))
            .table_elements(TABLE_ELEMENTS_MAX)
            .linear_memory_keep_resident(keep)
            .table_keep_resident(TABLE_KEEP_RESIDENT_BYTES)
            .pagemap_scan(Enabled::Auto);
        pool
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn five_default_engines_fit_one_process() {
        let EngineConfig { slots, memory_reservation_bytes, memory_guard_bytes, .. } =
            EngineConfig::default();
        let bytes = (memory_reservation_bytes + memory_guard_bytes) * u64::from(slots) * 5;
        assert!(bytes < ADDRESS_SPACE_BYTES, "{bytes}");
    }

    #[test]
    fn sizes_that_cannot_work_are_refused() {
        let fits = |change: fn(&mut EngineConfig)| {
            let mut config = EngineConfig::default();
            change(&mut config);
            config.check().is_ok()
        };
        assert!(fits(|_| ()));
        assert!(!fits(|config| config.slots = 0));
        assert!(!fits(|config| config.threads = 0));
        assert!(!fits(|config| config.slots = 40_000));
        assert!(!fits(|config| config.memory_bytes_max = 5 << 30));
    }
}
