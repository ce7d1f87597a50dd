//! The quickstart's corpus: short fables, made from a seed.
//!
//! A grammar rather than a text, so that there is as much of it as one likes, none of it has an
//! owner, and what a model learned shows: animals keep their names, what was lost is found, and
//! each fable ends in its moral.

use olmo_data::rng::Generator;

const ANIMALS: &[&str] = &[
    "fox", "crow", "hare", "tortoise", "mouse", "lion", "wolf", "heron", "badger", "otter", "owl",
    "frog", "bear", "squirrel", "donkey", "goat",
];
const NAMES: &[&str] = &[
    "Ada", "Bruno", "Clara", "Dario", "Edda", "Felix", "Greta", "Hugo", "Ida", "Jonas", "Kira",
    "Leo", "Mira", "Nils", "Olga", "Pia",
];
const TEMPERS: &[&str] =
    &["proud", "patient", "greedy", "kind", "clever", "lazy", "brave", "timid", "honest", "vain"];
const PLACES: &[&str] = &[
    "by the river",
    "at the edge of the forest",
    "under an old oak",
    "on a windy hill",
    "near the mill",
    "in a hollow tree",
    "beside the well",
    "behind the village",
];
const THINGS: &[&str] = &[
    "a golden ring",
    "a piece of cheese",
    "a red lantern",
    "a silver key",
    "a basket of figs",
    "a bright feather",
    "a jar of honey",
    "a small bell",
];
const SEASONS: &[&str] = &[
    "One morning in spring",
    "On a hot summer day",
    "One evening in autumn",
    "On the first day of snow",
    "After a night of rain",
    "At the time of the harvest",
];

/// How a fable goes: what happens, and what it teaches.
struct Plot {
    turns: &'static [&'static str],
    moral: &'static str,
}

/// `{a}` and `{b}` are the animals, `{A}` and `{B}` their names, `{t}` the thing, `{T}` the thing
/// with "the".
const PLOTS: &[Plot] = &[
    Plot {
        turns: &[
            "{A} found {t} and did not want to share it.",
            "\"It is mine alone,\" said the {a}, and hid {T} where nobody would look.",
            "But when {A} came back, {T} was gone, for {B} the {b} had seen everything.",
            "\"Had you shared it,\" said {B}, \"you would still have half.\"",
        ],
        moral: "Who will not share may lose it all.",
    },
    Plot {
        turns: &[
            "{A} lost {t} and looked for it the whole day.",
            "{B} the {b} came by and asked, \"Why do you weep, my friend?\"",
            "\"I have lost {T},\" said {A}, \"and I cannot find it.\"",
            "They looked together until the moon rose, and there lay {T} in the grass.",
        ],
        moral: "Two pairs of eyes see more than one.",
    },
    Plot {
        turns: &[
            "{A} said to {B} the {b}, \"I am faster than you and stronger than you.\"",
            "\"Then let us race for {t},\" said {B}, and they set off together.",
            "The {a} ran ahead and lay down to sleep, but the {b} never stopped.",
            "When {A} woke up, {B} was already holding {T}.",
        ],
        moral: "Slow and steady goes a long way.",
    },
    Plot {
        turns: &[
            "{A} caught {B} the {b} and wanted to eat it.",
            "\"Let me go,\" said {B}, \"and one day I will help you.\"",
            "The {a} laughed, but let the {b} go, and took {t} home instead.",
            "When hunters caught {A} in a net, {B} came and set the {a} free.",
        ],
        moral: "No kindness is ever too small.",
    },
    Plot {
        turns: &[
            "{A} sat in a tree with {t} and thought that nobody was near.",
            "\"How sweetly you must sing!\" said {B} the {b} from below.",
            "The {a} opened its mouth to sing, and down fell {T}.",
            "{B} picked it up and said, \"Thank you, {A}, your voice is worth a lesson.\"",
        ],
        moral: "Do not trust those who praise you for nothing.",
    },
];

/// The fables of a seed, one after another without end.
pub(super) struct Fables(Generator);

impl Fables {
    pub(super) fn new(seed: u64) -> Self {
        Self(Generator::new(seed))
    }

    fn pick<'a, T>(&mut self, from: &'a [T]) -> &'a T {
        // No list here is empty, so there is always a number below its length.
        let i = self.0.integers(0, from.len() as u64).unwrap_or(0);
        &from[i as usize]
    }

    /// Two different words of a list.
    fn pair(&mut self, from: &'static [&'static str]) -> [&'static str; 2] {
        let first = *self.pick(from);
        loop {
            let second = *self.pick(from);
            if second != first {
                return [first, second];
            }
        }
    }
}

impl Iterator for Fables {
    type Item = String;

    fn next(&mut self) -> Option<String> {
        let [a, b] = self.pair(ANIMALS);
        let [name_a, name_b] = self.pair(NAMES);
        let (temper, place) = (*self.pick(TEMPERS), *self.pick(PLACES));
        let (season, thing) = (*self.pick(SEASONS), *self.pick(THINGS));
        let the_thing = thing.replacen("a ", "the ", 1);
        let plot = self.pick(PLOTS);
        let article = if temper == "honest" { "an" } else { "a" };
        let mut fable =
            format!("There was once {article} {temper} {a} named {name_a} who lived {place}.");
        for (i, turn) in plot.turns.iter().enumerate() {
            fable.push(' ');
            if i == 0 {
                fable.push_str(season);
                fable.push_str(", ");
            }
            fable.push_str(turn);
        }
        let fable = fable
            .replace("{a}", a)
            .replace("{b}", b)
            .replace("{A}", name_a)
            .replace("{B}", name_b)
            .replace("{t}", thing)
            .replace("{T}", &the_thing);
        Some(format!("{fable} The moral: {}", plot.moral))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fables_are_whole_different_and_the_same_for_a_seed() {
        let fables: Vec<_> = Fables::new(1).take(200).collect();
        assert!(fables.iter().all(|f| f.starts_with("There was once") && !f.contains(['{', '}'])));
        assert_eq!(fables, Fables::new(1).take(200).collect::<Vec<_>>());
        let mut different = fables.clone();
        different.sort();
        different.dedup();
        assert!(different.len() > 195, "{}", different.len());
        assert_ne!(fables[0], Fables::new(2).next().expect("endless"));
    }
}
