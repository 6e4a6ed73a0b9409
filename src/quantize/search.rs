//! Which precision each module gets, under budgets.
//!
//! Every module (a matrix or a table) has choices, each with a size, a time and a loss that was measured with only this
//! module quantized. Losses of small, independent errors add up, so the best assignment for a budget is a knapsack with
//! one choice per module. Its relaxation is solved by taking the steps with the most saved per loss first (Sinha &
//! Zoltners 1979), and the order of these steps is a path from the most accurate model to the smallest one. What a step
//! along the path really costs is measured end to end by the caller.

/// One way to store a module.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Choice {
    /// Bytes it takes.
    pub bytes: u64,
    /// Seconds it runs.
    pub seconds: f64,
    /// What it costs in accuracy; 0 for float.
    pub loss: f64,
}

/// What an assignment may take; none where there is no limit.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Budget {
    /// Bytes of all modules.
    pub bytes: Option<u64>,
    /// Seconds of all modules.
    pub seconds: Option<f64>,
}

/// A module's change to another choice.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Step {
    /// Index of the module.
    pub module: usize,
    /// Index of its choice from here on.
    pub choice: usize,
}

/// An assignment: the index of each module's choice.
pub type Assignment = Vec<usize>;

/// What an assignment takes.
pub fn cost(modules: &[Vec<Choice>], assignment: &[usize]) -> Choice {
    let chosen = modules.iter().zip(assignment).map(|(choices, index)| choices[*index]);
    chosen.fold(Choice { bytes: 0, seconds: 0.0, loss: 0.0 }, |sum, c| Choice {
        bytes: sum.bytes + c.bytes,
        seconds: sum.seconds + c.seconds,
        loss: sum.loss + c.loss,
    })
}

impl Budget {
    /// Whether a cost is within it.
    pub fn allows(&self, cost: &Choice) -> bool {
        self.bytes.is_none_or(|limit| cost.bytes <= limit) && self.seconds.is_none_or(|limit| cost.seconds <= limit)
    }

    /// The cost as one number: the share of each limit, summed; bytes alone when nothing is limited.
    fn price(&self, choice: &Choice) -> f64 {
        match (self.bytes, self.seconds) {
            (None, None) => choice.bytes as f64,
            (bytes, seconds) => {
                bytes.map_or(0.0, |limit| choice.bytes as f64 / limit.max(1) as f64)
                    + seconds.map_or(0.0, |limit| choice.seconds / limit.max(f64::MIN_POSITIVE))
            }
        }
    }
}

/// The most accurate assignment (of equally accurate choices the cheapest), and the steps from it to the cheapest one,
/// most saved per loss first. A module's steps skip the choices that a mix of two others beats.
pub fn path(modules: &[Vec<Choice>], budget: &Budget) -> (Assignment, Vec<Step>) {
    let mut start = Vec::with_capacity(modules.len());
    let mut steps = Vec::new();
    for (module, choices) in modules.iter().enumerate() {
        let price = |index: &usize| budget.price(&choices[*index]);
        let better =
            |a: &usize, b: &usize| choices[*a].loss.total_cmp(&choices[*b].loss).then(price(a).total_cmp(&price(b)));
        let mut at = (0..choices.len()).min_by(better).expect("a module has a choice");
        start.push(at);
        // The lower convex hull of (price, loss): always the next step with the most saved per loss.
        loop {
            let rate = |to: &usize| (choices[*to].loss - choices[at].loss) / (price(&at) - price(to));
            let cheaper = (0..choices.len()).filter(|to| price(to) < price(&at));
            let Some(next) = cheaper.min_by(|a, b| rate(a).total_cmp(&rate(b)).then(price(a).total_cmp(&price(b))))
            else {
                break;
            };
            steps.push((rate(&next), Step { module, choice: next }));
            at = next;
        }
    }
    // Stable, and rates rise along a module's hull: its steps stay in order.
    steps.sort_by(|a, b| a.0.total_cmp(&b.0));
    (start, steps.into_iter().map(|(_, step)| step).collect())
}

/// The assignment after the first `count` steps.
pub fn after(start: &[usize], steps: &[Step], count: usize) -> Assignment {
    let mut assignment = start.to_vec();
    steps[..count].iter().for_each(|step| assignment[step.module] = step.choice);
    assignment
}

/// How many steps it takes until a budget is kept; none when even the last assignment does not.
pub fn steps_within(modules: &[Vec<Choice>], start: &[usize], steps: &[Step], budget: &Budget) -> Option<usize> {
    (0..=steps.len()).find(|count| budget.allows(&cost(modules, &after(start, steps, *count))))
}

/// Takes back the step that lost most among those that a module took last and that `may` go, which is asked with what
/// is then left; none when there is no such step.
fn without_worst(
    modules: &[Vec<Choice>],
    start: &[usize],
    steps: &mut Vec<Step>,
    may: impl Fn(&[Step]) -> bool,
) -> Option<Step> {
    let loss = |step: &Step| modules[step.module][step.choice].loss;
    let before = |index: usize| {
        let earlier = steps[..index].iter().rev().find(|other| other.module == steps[index].module);
        earlier.map_or(modules[steps[index].module][start[steps[index].module]].loss, loss)
    };
    let is_last = |index: usize| !steps[index + 1..].iter().any(|other| other.module == steps[index].module);
    let may_go = |index: &usize| is_last(*index) && may(&[&steps[..*index], &steps[index + 1..]].concat());
    let lost = |index: &usize| loss(&steps[*index]) - before(*index);
    let worst = (0..steps.len()).filter(may_go).max_by(|a, b| lost(a).total_cmp(&lost(b)))?;
    Some(steps.remove(worst))
}

/// What a search found.
#[derive(Clone, Debug, PartialEq)]
pub struct Found {
    /// The choice of each module.
    pub assignment: Assignment,
    /// Its agreement, as `verify` measured it.
    pub agreement: f64,
    /// Steps that were taken back because the agreement was below the bound.
    pub reverted: usize,
    /// Whether it keeps the budget; false when the bound could be kept only by taking back too much.
    pub within_budget: bool,
}

/// Searches an assignment, measuring candidates end to end with `verify`, which gives their agreement.
///
/// With a budget: the most accurate assignment within it, which is the path up to there without the steps that the last
/// one, which may save much more than is missing, makes needless; below `min_agreement`, the worst steps are taken back
/// until the bound holds. Without: the smallest assignment that keeps `min_agreement`, by bisection of the path. None when
/// not even the cheapest assignment keeps the budget.
///
/// # Errors
/// The first one of `verify`.
pub fn search<E>(
    modules: &[Vec<Choice>],
    budget: &Budget,
    min_agreement: f64,
    mut verify: impl FnMut(&[usize]) -> Result<f64, E>,
) -> Result<Option<Found>, E> {
    let (start, steps) = path(modules, budget);
    if *budget == Budget::default() {
        let found = |count: usize, agreement: f64| {
            Ok(Some(Found { assignment: after(&start, &steps, count), agreement, reverted: 0, within_budget: true }))
        };
        let (mut kept, mut above) = ((0, verify(&start)?), steps.len() + 1);
        while above - kept.0 > 1 {
            let middle = (kept.0 + above) / 2;
            match verify(&after(&start, &steps, middle))? {
                agreement if agreement >= min_agreement => kept = (middle, agreement),
                _ => above = middle,
            }
        }
        return found(kept.0, kept.1);
    }
    let Some(count) = steps_within(modules, &start, &steps, budget) else { return Ok(None) };
    let mut taken = steps[..count].to_vec();
    let keeps_budget = |left: &[Step]| budget.allows(&cost(modules, &after(&start, left, left.len())));
    while without_worst(modules, &start, &mut taken, keeps_budget).is_some() {}
    let needed = taken.len();
    let mut agreement = verify(&after(&start, &taken, needed))?;
    while agreement < min_agreement && without_worst(modules, &start, &mut taken, |_| true).is_some() {
        agreement = verify(&after(&start, &taken, taken.len()))?;
    }
    let assignment = after(&start, &taken, taken.len());
    let within_budget = budget.allows(&cost(modules, &assignment));
    Ok(Some(Found { assignment, agreement, reverted: needed - taken.len(), within_budget }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::{Rng, SeedableRng, rngs::StdRng};

    fn choice(bytes: u64, loss: f64) -> Choice {
        Choice { bytes, seconds: bytes as f64 * 1e-6, loss }
    }

    fn random_modules(seed: u64) -> Vec<Vec<Choice>> {
        let mut rng = StdRng::seed_from_u64(seed);
        (0..5)
            .map(|_| {
                let (size, pain) = (rng.random_range(10..100u64), rng.random::<f64>());
                let noisy = |bits: u64, loss: f64| choice(size * bits, loss * pain);
                vec![noisy(32, 0.0), noisy(8, 0.01), noisy(4, 0.1 * rng.random::<f64>()), noisy(2, 0.3), noisy(1, 1.0)]
            })
            .collect()
    }

    fn every_assignment(modules: &[Vec<Choice>]) -> Vec<Assignment> {
        modules.iter().fold(vec![vec![]], |partial, choices| {
            let extend = |a: &Assignment| (0..choices.len()).map(|c| [&a[..], &[c]].concat()).collect::<Vec<_>>();
            partial.iter().flat_map(extend).collect()
        })
    }

    /// The greedy assignment loses at most one step more than the best of all (the gap of the relaxation).
    #[test]
    fn the_path_is_within_a_step_of_the_best_assignment_of_all() {
        for seed in 0..20 {
            let modules = random_modules(seed);
            let everything = every_assignment(&modules);
            let full = cost(&modules, &[0; 5]).bytes;
            for share in [2, 4, 6, 10] {
                let budget = Budget { bytes: Some(full / share), seconds: None };
                let (start, steps) = path(&modules, &budget);
                let count = steps_within(&modules, &start, &steps, &budget).unwrap();
                let found = cost(&modules, &after(&start, &steps, count));
                assert!(budget.allows(&found));
                let allowed = everything.iter().map(|a| cost(&modules, a)).filter(|c| budget.allows(c));
                let best = allowed.map(|c| c.loss).fold(f64::INFINITY, f64::min);
                let last_step = found.loss - cost(&modules, &after(&start, &steps, count.saturating_sub(1))).loss;
                assert!(found.loss <= best + last_step + 1e-12, "seed {seed}: {} of {best}", found.loss);
            }
        }
    }

    #[test]
    fn a_choice_that_is_never_worth_it_is_skipped() {
        // int4 loses as much as binary here, so the path goes from int8 to binary at once.
        let modules = vec![vec![choice(32, 0.0), choice(8, 0.1), choice(4, 0.9), choice(1, 0.9)]];
        let (start, steps) = path(&modules, &Budget::default());
        assert_eq!(start, [0]);
        assert_eq!(steps.iter().map(|s| s.choice).collect::<Vec<_>>(), [1, 3]);
        assert_eq!(after(&start, &steps, 2), [3]);
    }

    #[test]
    fn a_smaller_choice_without_loss_is_where_the_path_starts() {
        let modules = vec![vec![choice(32, 0.0), choice(8, 0.0)]];
        assert_eq!(path(&modules, &Budget::default()).0, [1]);
    }

    #[test]
    fn a_time_limit_counts_seconds_and_an_impossible_one_is_said() {
        let slow = Choice { bytes: 1, seconds: 5.0, loss: 0.0 };
        let quick = Choice { bytes: 2, seconds: 1.0, loss: 0.5 };
        let modules = vec![vec![slow, quick]];
        let within = |seconds: f64| {
            let budget = Budget { bytes: None, seconds: Some(seconds) };
            let (start, steps) = path(&modules, &budget);
            steps_within(&modules, &start, &steps, &budget).map(|count| after(&start, &steps, count))
        };
        assert_eq!(within(6.0), Some(vec![0]));
        assert_eq!(within(2.0), Some(vec![1]));
        assert_eq!(within(0.5), None);
    }

    /// Agreement as it would be if losses really added up.
    fn additive(modules: &[Vec<Choice>]) -> impl FnMut(&[usize]) -> Result<f64, ()> {
        |assignment: &[usize]| Ok(1.0 - cost(modules, assignment).loss)
    }

    #[test]
    fn without_a_budget_the_smallest_that_keeps_the_bound_is_found() {
        for seed in 0..10 {
            let modules = random_modules(seed);
            let found = search(&modules, &Budget::default(), 0.9, additive(&modules)).unwrap().unwrap();
            assert!(found.agreement >= 0.9 && found.within_budget, "{found:?}");
            // The next step of the path would break the bound.
            let (start, steps) = path(&modules, &Budget::default());
            let count = (0..=steps.len()).find(|n| after(&start, &steps, *n) == found.assignment).unwrap();
            let next = after(&start, &steps, (count + 1).min(steps.len()));
            assert!(count == steps.len() || cost(&modules, &next).loss > 0.1);
        }
    }

    #[test]
    fn steps_that_hurt_more_than_was_thought_are_taken_back() {
        let modules = random_modules(4);
        let half = Budget { bytes: Some(cost(&modules, &[0; 5]).bytes / 6), seconds: None };
        // Module 2 cannot bear quantization at all, which its own loss does not tell.
        let verify = |a: &[usize]| Ok::<_, ()>(if a[2] == 0 { 1.0 } else { 0.5 });
        let found = search(&modules, &half, 0.95, verify).unwrap().unwrap();
        assert!(found.assignment[2] == 0 && found.agreement == 1.0 && found.reverted > 0, "{found:?}");
        let impossible = Budget { bytes: Some(1), seconds: None };
        assert_eq!(search(&modules, &impossible, 0.5, additive(&modules)).unwrap(), None);
    }

    #[test]
    fn steps_that_a_large_one_makes_needless_are_not_taken() {
        // The large table loses most per byte, so it comes last, and alone it saves enough.
        let modules = vec![
            vec![choice(40, 0.0), choice(20, 0.1)],
            vec![choice(40, 0.0), choice(20, 0.05)],
            vec![choice(400, 0.0), choice(200, 2.0)],
        ];
        let budget = Budget { bytes: Some(285), seconds: None };
        let (start, steps) = path(&modules, &budget);
        assert_eq!(after(&start, &steps, steps_within(&modules, &start, &steps, &budget).unwrap()), [1, 1, 1]);
        let found = search(&modules, &budget, -9.0, additive(&modules)).unwrap().unwrap();
        assert_eq!((found.assignment, found.reverted, found.within_budget), (vec![0, 0, 1], 0, true));
        for seed in 0..20 {
            let modules = random_modules(seed);
            let budget = Budget { bytes: Some(cost(&modules, &[0; 5]).bytes / 5), seconds: None };
            let (start, steps) = path(&modules, &budget);
            let count = steps_within(&modules, &start, &steps, &budget).unwrap();
            let found = search(&modules, &budget, -9.0, additive(&modules)).unwrap().unwrap();
            assert!(found.within_budget && found.agreement >= 1.0 - cost(&modules, &after(&start, &steps, count)).loss);
        }
    }

    #[test]
    fn a_bound_and_a_budget_that_exclude_each_other_are_told_apart() {
        let modules = vec![vec![choice(32, 0.0), choice(8, 0.3)]];
        let budget = Budget { bytes: Some(10), seconds: None };
        let found = search(&modules, &budget, 0.9, additive(&modules)).unwrap().unwrap();
        assert_eq!((found.assignment, found.within_budget, found.reverted), (vec![0], false, 1));
    }
}
