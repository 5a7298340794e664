//! What the engine does not take, said before it is asked and behind.

use axum::http::StatusCode;
use engine::EngineError;

use crate::error::ApiError;
use crate::served_model::ServedModel;

/// The least and the most that `Retry-After` says: a longer wait some clients take for a refusal.
const RETRY_AFTER_S: (f64, f64) = (1.0, 60.0);

/// Refuses what the queue could not take if it were empty: to come again would not help.
pub(super) fn check_num_choices(
    model: &ServedModel,
    num_prompts: usize,
    n: usize,
) -> Result<(), ApiError> {
    let (num_choices, most) = (num_prompts * n, model.generator().max_num_queued_reqs());
    if num_choices <= most {
        return Ok(());
    }
    let message = format!(
        "{num_choices} choices ('n' {n}, prompts: {num_prompts}) are more than the {most} that may wait: ask for \
         fewer at once, or start the server with a larger --max-num-queued-reqs."
    );
    Err(ApiError::invalid("n", message))
}

/// The engine took none of the sequences.
pub(crate) fn refused(model: &ServedModel, refusal: &EngineError) -> ApiError {
    let error = ApiError::from(refusal.clone());
    if error.status != StatusCode::TOO_MANY_REQUESTS {
        return error;
    }
    model.metrics().rejection(refusal);
    let seconds = model.generator().time_to_drain().as_secs_f64().ceil();
    let (least, most) = RETRY_AFTER_S;
    ApiError { retry_after: Some(seconds.clamp(least, most) as u64), ..error }
}
