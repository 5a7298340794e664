//! CUDA graphs of whole steps, on stock candle: what it allocates while a graph is captured becomes
//! part of the graph, as long as it is freed within.

use candle_core::cuda_backend::WrapErr;
use candle_core::cuda_backend::cudarc::driver::CudaGraph;
use candle_core::cuda_backend::cudarc::driver::sys::{
    CUgraphInstantiate_flags, CUstreamCaptureMode,
};
use candle_core::{CudaDevice, Result, bail};

/// A captured graph, launched on the stream that it was captured from.
pub(crate) struct Graph(CudaGraph);

// SAFETY: the driver wants the calls on a graph one after the other, not from one thread; a `Graph`
// has one owner.
unsafe impl Send for Graph {}

impl std::fmt::Debug for Graph {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Graph")
    }
}

impl Graph {
    pub(crate) fn record(device: &CudaDevice, mut f: impl FnMut() -> Result<()>) -> Result<Self> {
        let stream = device.cuda_stream();
        // Shapes and strides that candle's own kernels read are copied by the first run and found
        // again by the capture, which may not copy.
        let _cache = device.enable_cuda_graph_htod_cache();
        f()?;
        stream.synchronize().w()?;
        let mode = CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_THREAD_LOCAL;
        stream.begin_capture(mode).w()?;
        // The capture is ended in any case: a stream that goes on capturing is of no use.
        let captured = f();
        let flags = CUgraphInstantiate_flags::CUDA_GRAPH_INSTANTIATE_FLAG_AUTO_FREE_ON_LAUNCH;
        let graph = stream.end_capture(flags).w();
        captured?;
        let Some(graph) = graph? else { bail!("the device recorded nothing") };
        graph.upload().w()?;
        Ok(Self(graph))
    }

    pub(crate) fn launch(&self) -> Result<()> {
        self.0.launch().w()
    }
}
