//! The engine loop over a model that costs nothing and remembers everything.

#![expect(clippy::unwrap_used, reason = "a test stops where it cannot go on")]
#![expect(clippy::duplicate_mod, reason = "each test runs with two kinds of engine")]

mod client;
mod fake;
mod pooling;

/// All tests, of an engine that reads each step before it asks for the next, or of one that works as
/// on a GPU: it asks ahead, and steps that only decode are padded to a recorded size.
macro_rules! all_tests {
    ($async_scheduling:literal, $capture_sizes:expr) => {
        /// How many steps are asked for before the first of them is read, less that one: so many
        /// more run before a test sees what one gave, and one that ended goes through as many in vain.
        const NUM_AHEAD: usize = $async_scheduling as usize;

        fn options() -> engine::EngineOptions {
            engine::EngineOptions {
                async_scheduling: Some($async_scheduling),
                cudagraph_capture_sizes: Some($capture_sizes),
                ..crate::fake::options()
            }
        }

        #[path = "constraints.rs"]
        mod constraints;
        #[path = "equalities.rs"]
        mod equalities;
        #[path = "failures.rs"]
        mod failures;
        #[path = "fairness.rs"]
        mod fairness;
        #[path = "lifecycle.rs"]
        mod lifecycle;
        #[path = "recovery.rs"]
        mod recovery;
        #[path = "rules.rs"]
        mod rules;
    };
}

#[path = "."]
mod step_by_step {
    all_tests!(false, Vec::new());
}

#[path = "."]
mod ahead {
    all_tests!(true, vec![1, 2, 5, 16]);
}
