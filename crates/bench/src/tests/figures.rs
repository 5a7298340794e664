//! What is measured: counts, delays, connections, and from when time counts.

use std::time::Duration;

use proptest::prelude::*;

use super::*;

#[test]
fn counts_and_delays_are_those_of_the_server() {
    let pause = Duration::from_millis;
    let script = after_looking(move |asked| {
        let events = chat_events(asked);
        let mut steps = vec![stream_head(), write(event(&events[0])), Step::Pause(pause(60))];
        for data in &events[1..] {
            steps.extend([write(event(data)), Step::Pause(pause(15))]);
        }
        steps.push(stream_end());
        steps
    });
    let result = one(script, RUN);
    assert_eq!((result.completed, result.failed), (6, 0), "{:?}", result.errors_by_kind);
    assert_eq!((result.total_output_tokens, result.total_events), (30, 30));
    assert_eq!((result.input_length_mismatches, result.output_length_mismatches), (0, 0));
    assert_eq!(result.output_tokens_by, "usage");
    assert_eq!((result.ttft.count, result.tpot.count, result.itl.count), (6, 6, 24));
    // A pause is never shorter than asked; how much longer depends on the machine. The role's event
    // came before the pause and is no token.
    assert!(result.ttft.min >= 60.0, "{:?}", result.ttft);
    assert!(result.itl.mean >= 15.0 && result.tpot.min >= 15.0, "{:?}", result.itl);
    assert!(result.e2el.min >= 60.0 + 4.0 * 15.0, "{:?}", result.e2el);
    assert_eq!(result.max_concurrent_requests, 2);
    assert_eq!(result.about.loop_kind, "closed");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    /// However the network cuts an answer, the figures count the same.
    #[test]
    fn cuts_of_the_stream_change_nothing(size in 1usize..90, in_chunks in any::<bool>()) {
        let script = after_looking(move |asked| {
            let events: String =
                chat_events(asked).iter().flat_map(|data| ["data: ", data, "\r\n\r\n"]).collect();
            let pieces = events.as_bytes().chunks(size);
            if in_chunks {
                // HTTP chunks that do not end where events do.
                let mut steps = vec![stream_head()];
                steps.extend(pieces.map(|piece| {
                    let mut chunk = format!("{:x}\r\n", piece.len()).into_bytes();
                    chunk.extend_from_slice(piece);
                    chunk.extend_from_slice(b"\r\n");
                    write(chunk)
                }));
                steps.push(stream_end());
                return steps;
            }
            // TCP segments that end anywhere, in a body of known length.
            let head = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n", events.len());
            let mut steps = vec![write(head)];
            for piece in pieces {
                steps.extend([write(piece), Step::Yield]);
            }
            steps
        });
        let result = one(script, RUN);
        prop_assert_eq!((result.completed, result.failed), (6, 0), "{:?}", result.errors_by_kind);
        prop_assert_eq!((result.total_output_tokens, result.total_events), (30, 30));
    }
}

#[test]
fn connections_are_kept() {
    let result = one(after_looking(|asked| stream(&chat_events(asked))), RUN);
    assert!(result.generator_health.connections <= 2, "{:?}", result.generator_health);
}

#[test]
fn a_connection_that_the_server_closes_between_requests_is_no_failure() {
    let closing = |asked: &Asked| {
        let mut steps = stream(&chat_events(asked));
        steps.push(Step::Close);
        steps
    };
    let result = one(after_looking(closing), RUN);
    assert_eq!((result.completed, result.failed), (6, 0), "{:?}", result.errors_by_kind);
}

/// Latency of an open loop is counted from when a request was due, not from when it got a place.
#[test]
fn no_coordinated_omission() {
    let service = Duration::from_millis(40);
    let script = after_looking(move |asked| {
        let mut steps = vec![stream_head(), Step::Pause(service)];
        steps.extend(stream(&chat_events(asked)).into_iter().skip(1));
        steps
    });
    let flags = "--rate inf --requests 5 --concurrency 1 --warmup 0 --output-tokens 5";
    let result = one(script, flags);
    assert_eq!((result.completed, result.max_concurrent_requests), (5, 1));
    // All were due at the start and served one after the other.
    assert!(result.ttft.min >= 40.0 && result.ttft.max >= 200.0, "{:?}", result.ttft);
    assert!(result.ttft.mean >= 3.0 * 40.0, "{:?}", result.ttft);
    assert_eq!(result.about.loop_kind, "open");
}
