//! Fifty steps of ai2-olmo's model under torch's AdamW, and fifty of ours from the same weights and
//! batches.

use burn::tensor::Device;
use olmo_model::{Labels, Role};
use olmo_optim::{
    AdamW, AdamWConfig, GroupRules, Optimizer, ParamGroups, ParamKind, Schedule, UpdateOptions,
    clip_coefficient, global_norm,
};
use olmo_tests::{Golden, hf_name, relative_difference, weights};
use olmo_train::step::{Activations, Gradients, Precision, StepOptions, micro_batch};
use serde_json::Value;

/// Largest difference of a step's loss. Measured: 2e-6.
const LOSS: f64 = 5e-6;
/// Largest relative difference of a step's gradient norm.
const GRAD_NORM: f64 = 2e-5;
/// Largest relative difference of a parameter after the last step.
const WEIGHTS: f64 = 2e-5;

struct Recipe(Value);

impl Recipe {
    fn number(&self, name: &str) -> f64 {
        self.0[name].as_f64().unwrap_or_else(|| panic!("{name} is {}", self.0[name]))
    }

    fn flag(&self, name: &str) -> bool {
        self.0[name].as_bool().unwrap_or_else(|| panic!("{name} is {}", self.0[name]))
    }

    fn schedule(&self) -> Schedule {
        let fields = ["t_warmup", "t_max", "alpha_f", "warmup_min_lr"];
        let mut value = serde_json::json!({ "name": self.0["scheduler"] });
        for field in fields {
            value[field] = self.0[field].clone();
        }
        serde_json::from_value(value).expect("a schedule of ours")
    }

    fn adamw(&self) -> AdamWConfig {
        let betas = [&self.0["betas"][0], &self.0["betas"][1]].map(|b| b.as_f64().expect("beta"));
        let weight_decay = self.number("weight_decay");
        AdamWConfig { betas, eps: self.number("eps"), weight_decay }
    }
}

fn follow(name: &str) {
    let golden = Golden::open(&format!("curve/{name}.safetensors"));
    let recipe = Recipe(golden.json("recipe"));
    let config = golden.config();
    let mut model = golden.model("initial.", &Device::flex());
    let adamw = recipe.adamw();
    let mut optimizer = AdamW::new(&adamw).expect("sound settings");
    let rules = GroupRules {
        decay_norm_and_bias: recipe.flag("decay_norm_and_bias"),
        decay_embeddings: recipe.flag("decay_embeddings"),
    };
    let parameters = config.model.parameters().into_iter().map(|p| {
        let kind = match p.role {
            Role::Embedding => ParamKind::Embedding,
            Role::Norm => ParamKind::Norm,
            _ => ParamKind::Linear,
        };
        (p.path, kind)
    });
    let groups = ParamGroups::new(parameters, rules, adamw.weight_decay).expect("distinct paths");
    let schedule = recipe.schedule();

    let [n_steps, batch, seq] = golden.shape("tokens")[..] else { panic!("[steps, batch, seq]") };
    let tokens = golden.tokens("tokens");
    let (losses, norms, rates) =
        (golden.floats("loss"), golden.floats("grad_norm"), golden.floats("lr"));
    let micro = recipe.number("micro_batch_size") as usize;
    let options = StepOptions {
        precision: Precision::F32,
        activations: Activations::Recompute,
        loss_scale: 1.0 / (batch * (seq - 1)) as f64,
        ..StepOptions::default()
    };
    for step in 0..n_steps {
        let mut gradients = Gradients::new();
        let mut loss = 0.0;
        for part in tokens[step * batch * seq..][..batch * seq].chunks(micro * seq) {
            let labels = Labels::next_token(part, seq);
            let sums = micro_batch(&model, part, seq, &labels, &options, &mut gradients);
            loss += sums.cross_entropy * options.loss_scale;
        }
        let difference = (loss - losses[step]).abs();
        assert!(difference < LOSS, "{name}: loss at step {} differs by {difference:e}", step + 1);
        let norm = global_norm(gradients.iter().map(|(_, g)| g)).expect("readable").value();
        let difference = (norm / norms[step] - 1.0).abs();
        assert!(
            difference < GRAD_NORM,
            "{name}: norm at step {} differs by {difference:e}",
            step + 1
        );
        let lr =
            schedule.at(recipe.number("lr"), step as u64 + 1, recipe.number("max_steps") as u64);
        assert!((lr / rates[step] - 1.0).abs() < 1e-12, "{name}: {lr} for {}", rates[step]);
        let grad_scale = clip_coefficient(norm, recipe.number("max_grad_norm"));
        model = model
            .map_parameters(|path, weight| {
                let gradient = gradients.take(path).expect("every parameter takes part");
                let weight_decay = groups.weight_decay(path).expect("every parameter is grouped");
                let options = UpdateOptions { lr, weight_decay, grad_scale };
                optimizer.update(path, weight, gradient, &options)
            })
            .expect("an update");
    }
    for (path, found) in weights(&model) {
        let expected = golden.f32(&format!("final.{}", hf_name(config.family, &path)));
        let difference = relative_difference(&found, &expected);
        assert!(difference < WEIGHTS, "{name}: {path} differs by {difference:e}");
    }
}

#[test]
fn olmo_follows_ai2_olmo_for_fifty_steps() {
    follow("olmo");
}

#[test]
fn olmo2_follows_ai2_olmo_for_fifty_steps_of_accumulated_batches() {
    follow("olmo2");
}

#[test]
fn olmo2_follows_ai2_olmo_for_fifty_steps_down_a_cosine() {
    follow("olmo2-cosine");
}
