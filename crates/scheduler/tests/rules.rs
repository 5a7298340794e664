//! The rules one by one: budget, chunks, order, prefix cache, preemption, ends, refusals.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use scheduler::{
    Entry, Limits, MAX_OVERTAKEN, NewSequence, Outcome, Plan, Scheduler, SeqId, SubmitError,
    TokenId,
};

const LIMITS: Limits = Limits {
    num_blocks: 64,
    block_size: 4,
    max_num_seqs: 4,
    max_num_batched_tokens: 8,
    max_model_len: 100,
    enable_prefix_caching: true,
};

fn scheduler(limits: Limits) -> Scheduler {
    Scheduler::new(limits).unwrap()
}

/// Asks for `max_new_tokens` after a prompt of `prompt_len` tokens that all begin alike.
fn sequence(id: u64, prompt_len: usize, max_new_tokens: usize) -> NewSequence {
    NewSequence {
        id: SeqId(id),
        prompt: (0..prompt_len as TokenId).collect(),
        max_new_tokens,
        priority: 0,
        share: None,
        salt: None,
        need_prompt_logits: false,
    }
}

/// The same with a beginning of its own.
fn distinct(id: u64, prompt_len: usize, max_new_tokens: usize) -> NewSequence {
    let mut new = sequence(id, prompt_len, max_new_tokens);
    new.prompt[0] = 1000 + id as TokenId;
    new
}

/// Each entry that samples gives this token; the sequences in `finished` end.
fn outcomes(plan: &Plan, finished: &[u64]) -> Vec<Outcome> {
    let outcome = |entry: &Entry| Outcome {
        id: entry.id,
        tokens: entry.samples.then_some(7).into(),
        finished: finished.contains(&entry.id.0),
    };
    plan.entries.iter().map(outcome).collect()
}

/// One step; returns the plan.
fn step(scheduler: &mut Scheduler) -> Option<Plan> {
    let plan = scheduler.schedule()?;
    scheduler.commit(&plan, &outcomes(&plan, &[]));
    scheduler.check_invariants();
    Some(plan)
}

/// (id, start, len) of each entry.
fn shape(plan: &Plan) -> Vec<(u64, usize, usize)> {
    plan.entries.iter().map(|entry| (entry.id.0, entry.start, entry.len)).collect()
}

#[test]
fn long_prompts_run_in_chunks_beside_decodes() {
    let mut scheduler = scheduler(LIMITS);
    scheduler.submit(distinct(0, 3, 9)).unwrap();
    scheduler.submit(distinct(1, 20, 2)).unwrap();
    scheduler.submit(distinct(2, 2, 1)).unwrap();
    assert_eq!(shape(&step(&mut scheduler).unwrap()), [(0, 0, 3), (1, 0, 5)]);
    assert_eq!(shape(&step(&mut scheduler).unwrap()), [(0, 3, 1), (1, 5, 7)]);
    assert_eq!(shape(&step(&mut scheduler).unwrap()), [(0, 4, 1), (1, 12, 7)]);
    let plan = step(&mut scheduler).unwrap();
    assert_eq!(shape(&plan), [(0, 5, 1), (1, 19, 1), (2, 0, 2)]);
    assert_eq!(plan.entries[1].ids[..], [19]);
    let samples: Vec<_> = plan.entries.iter().map(|entry| entry.samples).collect();
    assert_eq!(samples, [true, true, true]);
    assert_eq!(shape(&step(&mut scheduler).unwrap()), [(0, 6, 1), (1, 20, 1)]);
}

#[test]
fn a_budget_of_one_token_a_sequence_still_advances_a_long_prompt() {
    let mut scheduler = scheduler(Limits { max_num_batched_tokens: 4, ..LIMITS });
    scheduler.submit(distinct(0, 30, 1)).unwrap();
    for id in 1..4 {
        scheduler.submit(NewSequence { priority: -1, ..distinct(id, 1, 9) }).unwrap();
    }
    assert_eq!(shape(&step(&mut scheduler).unwrap()), [(1, 0, 1), (2, 0, 1), (3, 0, 1), (0, 0, 1)]);
    assert_eq!(shape(&step(&mut scheduler).unwrap()), [(1, 1, 1), (2, 1, 1), (3, 1, 1), (0, 1, 1)]);
}

#[test]
fn a_prompt_reads_the_full_blocks_that_an_earlier_one_filled() {
    let mut scheduler = scheduler(Limits { max_num_batched_tokens: 40, ..LIMITS });
    let mut cached = |new: NewSequence| {
        scheduler.submit(new).unwrap();
        step(&mut scheduler).unwrap().entries[0].cached_tokens
    };
    assert_eq!(cached(sequence(0, 10, 1)), 0);
    assert_eq!(cached(sequence(1, 10, 1)), 8);
    assert_eq!(cached(sequence(2, 8, 1)), 4, "the last token is always computed");
    assert_eq!(cached(sequence(3, 3, 1)), 0);
    assert_eq!(cached(NewSequence { salt: Some("s".into()), ..sequence(4, 10, 1) }), 0);
    assert_eq!(cached(NewSequence { salt: Some("s".into()), ..sequence(5, 10, 1) }), 8);
    assert_eq!(cached(NewSequence { need_prompt_logits: true, ..sequence(6, 10, 1) }), 0);
    let stats = scheduler.stats();
    assert_eq!((stats.used_blocks, stats.cached_blocks), (0, 4));
}

#[test]
fn generated_tokens_are_found_again() {
    let mut scheduler = scheduler(LIMITS);
    scheduler.submit(sequence(0, 6, 7)).unwrap();
    while step(&mut scheduler).is_some() {}
    let mut next = sequence(1, 6, 1);
    next.prompt.extend([7, 7, 7, 7, 7, 7, 7, 8]);
    scheduler.submit(next).unwrap();
    assert_eq!(step(&mut scheduler).unwrap().entries[0].cached_tokens, 12);
}

#[test]
fn a_block_is_findable_once_its_step_is_committed() {
    let mut scheduler = scheduler(Limits { max_num_batched_tokens: 40, ..LIMITS });
    scheduler.submit(sequence(0, 9, 5)).unwrap();
    scheduler.submit(sequence(1, 9, 5)).unwrap();
    let first = scheduler.schedule().unwrap();
    scheduler.submit(sequence(2, 9, 5)).unwrap();
    let second = scheduler.schedule().unwrap();
    assert!(first.entries.iter().chain(&second.entries).all(|entry| entry.cached_tokens == 0));
    scheduler.commit(&first, &outcomes(&first, &[]));
    scheduler.submit(sequence(3, 9, 5)).unwrap();
    let third = scheduler.schedule().unwrap();
    assert_eq!(third.entries.last().unwrap().cached_tokens, 8);
    // Those that computed the same go on with one copy: two blocks, and a last one for each.
    scheduler.commit(&second, &outcomes(&second, &[]));
    scheduler.commit(&third, &outcomes(&third, &[]));
    assert_eq!(scheduler.stats().used_blocks, 2 + 4);
}

#[test]
fn a_failed_step_ends_its_sequences_and_leaves_nothing_findable() {
    let mut scheduler = scheduler(LIMITS);
    scheduler.submit(sequence(0, 8, 5)).unwrap();
    let failed = scheduler.schedule().unwrap();
    let next = scheduler.schedule().unwrap();
    assert_eq!(scheduler.fail(&failed), [SeqId(0)]);
    assert_eq!(scheduler.stats().used_blocks, 3, "the next plan still names them");
    assert_eq!(scheduler.fail(&next), []);
    let stats = scheduler.stats();
    assert_eq!((stats.used_blocks, stats.cached_blocks, stats.running), (0, 0, 0));
}

#[test]
fn the_newest_is_preempted_and_comes_back_first() {
    let limits = Limits { num_blocks: 6, enable_prefix_caching: false, ..LIMITS };
    let mut scheduler = scheduler(limits);
    for id in 0..2 {
        scheduler.submit(distinct(id, 4, 16)).unwrap();
    }
    let mut plan = step(&mut scheduler).unwrap();
    scheduler.submit(NewSequence { priority: -9, ..distinct(2, 4, 16) }).unwrap();
    while plan.preempted.is_empty() {
        plan = step(&mut scheduler).unwrap();
    }
    assert_eq!(plan.preempted, [SeqId(1)]);
    assert_eq!(shape(&plan), [(0, 12, 1)]);
    let again = loop {
        let plan = step(&mut scheduler).unwrap();
        if plan.entries.iter().any(|entry| entry.id != SeqId(0)) {
            break plan;
        }
    };
    // All that was known of 1 is its prompt now; 2 has waited behind it.
    let entry = again.entries.iter().find(|entry| entry.id == SeqId(1)).unwrap();
    assert_eq!((entry.start, entry.len, entry.samples), (0, 8, false));
    assert_eq!(scheduler.sequence(SeqId(1)).unwrap().tokens().len(), 13);
    while step(&mut scheduler).is_some() {}
    assert_eq!(scheduler.stats().waiting, 0);
}

#[test]
fn urgent_arrivals_do_not_starve_a_waiting_sequence() {
    let mut scheduler = scheduler(Limits { max_num_seqs: 1, ..LIMITS });
    scheduler.submit(NewSequence { priority: i32::MAX, ..distinct(0, 1, 1) }).unwrap();
    for id in 1..=MAX_OVERTAKEN as u64 + 1 {
        assert!(scheduler.sequence(SeqId(0)).is_some(), "it is less urgent");
        scheduler.submit(NewSequence { priority: -1, ..distinct(id, 1, 1) }).unwrap();
        step(&mut scheduler);
    }
    assert!(scheduler.sequence(SeqId(0)).is_none(), "its turn has come");
}

#[test]
fn urgent_arrivals_preempt_a_sequence_once_and_not_again() {
    let limits = Limits { num_blocks: 24, block_size: 1, enable_prefix_caching: false, ..LIMITS };
    let mut scheduler = scheduler(limits);
    scheduler.submit(distinct(0, 1, 23)).unwrap();
    let mut times_preempted = 0;
    for id in 1..200 {
        scheduler.submit(NewSequence { priority: -1, ..distinct(id, 1, 20) }).unwrap();
        let plan = step(&mut scheduler).unwrap();
        times_preempted += usize::from(plan.preempted.contains(&SeqId(0)));
    }
    assert_eq!(times_preempted, 1);
    assert!(scheduler.sequence(SeqId(0)).is_none());
}

#[test]
fn nobody_overtakes_a_head_that_waits_for_blocks() {
    let mut scheduler = scheduler(Limits { num_blocks: 4, ..LIMITS });
    scheduler.submit(distinct(0, 5, 4)).unwrap();
    scheduler.submit(distinct(1, 12, 1)).unwrap();
    scheduler.submit(distinct(2, 1, 1)).unwrap();
    for _ in 0..4 {
        assert_eq!(step(&mut scheduler).unwrap().entries[0].id, SeqId(0));
    }
    assert_eq!(shape(&step(&mut scheduler).unwrap()), [(1, 0, 8)]);
}

#[test]
fn a_sequence_that_ends_one_step_ahead_keeps_its_blocks_until_the_plan_is_committed() {
    let mut scheduler = scheduler(LIMITS);
    scheduler.submit(sequence(0, 5, 9)).unwrap();
    let first = scheduler.schedule().unwrap();
    let second = scheduler.schedule().unwrap();
    assert_eq!((shape(&second), &second.entries[0].ids[..]), (vec![(0, 5, 1)], &[][..]));
    assert_eq!(scheduler.commit(&first, &outcomes(&first, &[0])), [SeqId(0)]);
    assert!(!scheduler.abort(SeqId(0)), "it has ended");
    assert_eq!(scheduler.submit(sequence(0, 1, 1)), Err(SubmitError::DuplicateId(SeqId(0))));
    assert_eq!(scheduler.stats().used_blocks, 2);
    assert_eq!(scheduler.schedule(), None);
    assert_eq!(scheduler.commit(&second, &outcomes(&second, &[0])), []);
    assert!(scheduler.sequence(SeqId(0)).is_none());
    assert_eq!(scheduler.stats().used_blocks, 0);
}

#[test]
fn planning_ahead_stops_at_max_new_tokens() {
    let mut scheduler = scheduler(LIMITS);
    scheduler.submit(sequence(0, 1, 2)).unwrap();
    let first = scheduler.schedule().unwrap();
    let second = scheduler.schedule().unwrap();
    assert_eq!(scheduler.commit(&first, &outcomes(&first, &[])), []);
    assert_eq!(scheduler.schedule(), None);
    assert_eq!(scheduler.commit(&second, &outcomes(&second, &[])), [SeqId(0)]);
}

#[test]
fn without_new_tokens_the_prompt_is_only_scored() {
    let mut scheduler = scheduler(LIMITS);
    scheduler.submit(NewSequence { need_prompt_logits: true, ..sequence(0, 10, 0) }).unwrap();
    for rows in [(0, 0, 8), (0, 8, 2)] {
        let plan = step(&mut scheduler).unwrap();
        assert_eq!(shape(&plan), [rows]);
        assert!(plan.entries[0].prompt_logits && !plan.entries[0].samples);
    }
    assert!(scheduler.sequence(SeqId(0)).is_none());
}

#[test]
fn an_abort_is_possible_at_any_point() {
    let mut scheduler = scheduler(LIMITS);
    assert!(!scheduler.abort(SeqId(0)));
    scheduler.submit(sequence(0, 5, 5)).unwrap();
    assert!(scheduler.abort(SeqId(0)), "waiting");
    scheduler.submit(sequence(0, 5, 5)).unwrap();
    let plan = scheduler.schedule().unwrap();
    assert!(scheduler.abort(SeqId(0)), "planned");
    assert!(!scheduler.abort(SeqId(0)), "twice");
    assert_eq!(scheduler.commit(&plan, &outcomes(&plan, &[])), []);
    scheduler.submit(sequence(0, 5, 5)).unwrap();
    step(&mut scheduler);
    assert!(scheduler.abort(SeqId(0)), "running");
    assert_eq!((scheduler.stats().used_blocks, scheduler.schedule()), (0, None));
}

#[test]
fn what_could_never_run_is_refused_with_numbers() {
    let mut scheduler = scheduler(Limits { num_blocks: 3, max_model_len: 20, ..LIMITS });
    let mut refuse = |new| scheduler.submit(new).unwrap_err().to_string();
    assert_eq!(refuse(sequence(0, 0, 1)), "the prompt is empty");
    assert_eq!(
        refuse(sequence(0, 15, 6)),
        "15 prompt tokens and 6 new tokens are more than the context of 20 tokens"
    );
    assert!(refuse(sequence(0, 1, usize::MAX)).contains("more than the context"));
    assert_eq!(refuse(sequence(0, 10, 4)), "the sequence needs 4 cache blocks and there are 3");
    // The thirteenth token is the last one generated and needs no place.
    scheduler.submit(sequence(0, 10, 3)).unwrap();
    while step(&mut scheduler).is_some() {}
}

#[test]
#[should_panic(expected = "commit one before the next")]
fn a_third_plan_in_flight_is_a_fault() {
    let mut scheduler = scheduler(LIMITS);
    scheduler.submit(sequence(0, 5, 5)).unwrap();
    let _plans = [scheduler.schedule(), scheduler.schedule(), scheduler.schedule()];
}

#[test]
#[should_panic(expected = "in the order they were made")]
fn plans_are_committed_in_order() {
    let mut scheduler = scheduler(LIMITS);
    scheduler.submit(sequence(0, 5, 5)).unwrap();
    let _first = scheduler.schedule().unwrap();
    let second = scheduler.schedule().unwrap();
    scheduler.commit(&second, &outcomes(&second, &[]));
}

/// What a step of one sequence gives: `tokens`.
fn give(scheduler: &mut Scheduler, plan: &Plan, tokens: &[TokenId]) {
    let outcome = Outcome { id: plan.entries[0].id, tokens: tokens.into(), finished: false };
    scheduler.commit(plan, &[outcome]);
    scheduler.check_invariants();
}

#[test]
fn right_drafts_save_steps_and_wrong_ones_are_written_over() {
    let mut scheduler = scheduler(LIMITS);
    let id = SeqId(0);
    scheduler.submit(distinct(0, 3, 9)).unwrap();
    scheduler.want_drafts(id, 3);
    let plan = scheduler.schedule().unwrap();
    assert_eq!((plan.entries[0].len, plan.entries[0].num_drafts), (3, 0), "a prompt has none");
    give(&mut scheduler, &plan, &[7]);

    scheduler.want_drafts(id, 3);
    let plan = scheduler.schedule().unwrap();
    let entry = &plan.entries[0];
    assert_eq!((entry.start, entry.len, entry.num_drafts, &entry.ids[..]), (3, 4, 3, &[7][..]));
    assert_eq!((plan.num_tokens, entry.blocks.len()), (4, 2));
    assert!(scheduler.schedule().is_none(), "how far it gets is not known yet");
    give(&mut scheduler, &plan, &[8, 9]);

    let plan = step(&mut scheduler).unwrap();
    let entry = &plan.entries[0];
    assert_eq!((entry.start, entry.num_drafts, &entry.ids[..]), (5, 0, &[9][..]), "asked for once");
    // Four tokens are left, of which one comes anyway.
    scheduler.want_drafts(id, 20);
    let plan = scheduler.schedule().unwrap();
    assert_eq!((plan.entries[0].start, plan.entries[0].num_drafts), (6, 4));
    give(&mut scheduler, &plan, &[1, 2, 3, 4, 5]);
    assert!(scheduler.schedule().is_none());
    assert_eq!(scheduler.stats().used_blocks, 0);
}

#[test]
fn drafts_take_no_ones_turn_and_no_ones_blocks() {
    let limits = Limits { num_blocks: 5, max_num_batched_tokens: 6, ..LIMITS };
    let mut scheduler = scheduler(limits);
    for id in 0..3 {
        scheduler.submit(distinct(id, 2, 9)).unwrap();
    }
    step(&mut scheduler).unwrap();
    for id in 0..3 {
        scheduler.want_drafts(SeqId(id), 5);
    }
    // Three decodes leave three tokens of the budget; two free blocks are others' to grow into, so
    // only the rest of the own block is there.
    let plan = scheduler.schedule().unwrap();
    let drafts: Vec<_> = plan.entries.iter().map(|entry| entry.num_drafts).collect();
    assert_eq!(drafts, [1, 1, 1]);
    assert!(plan.preempted.is_empty());
}
