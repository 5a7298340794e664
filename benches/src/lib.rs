//! Micro-benchmarks, one file each beside `src`; dated results in `results`.
