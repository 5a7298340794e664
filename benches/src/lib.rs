//! Micro-benchmarks, one binary each in `src/bin`; dated results in `results`.
