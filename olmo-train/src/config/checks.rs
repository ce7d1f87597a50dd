//! What is wrong with a configuration by itself.

use olmo_model::config::FeedForwardConfig;

use super::{RouterLossConfig, TrainConfig};
use crate::evaluation;

impl TrainConfig {
    /// Everything that can be known to be wrong without opening a file, in one message.
    pub(super) fn validate(&self) -> Result<(), String> {
        let mut problems = Vec::new();
        let mut check = |ok: bool, problem: String| {
            if !ok {
                problems.push(problem);
            }
        };
        let (global, micro) = (self.global_train_batch_size, self.device_train_microbatch_size);
        check(global > 0, "global_train_batch_size is 0, expected at least 1".to_owned());
        check(micro > 0, "device_train_microbatch_size is 0, expected at least 1".to_owned());
        check(
            micro == 0 || global.is_multiple_of(micro),
            format!(
                "global_train_batch_size is {global}, expected a multiple of device_train_microbatch_size = {micro}"
            ),
        );
        check(
            self.max_duration.steps > 0,
            "max_duration is 0, expected at least 1 step".to_owned(),
        );
        check(self.save_interval > 0, "save_interval is 0, expected at least 1 step".to_owned());
        check(
            self.save_num_checkpoints_to_keep != Some(0),
            "save_num_checkpoints_to_keep is 0, expected at least 1".to_owned(),
        );
        let peak = self.device_peak_flops.unwrap_or(1.0);
        check(
            peak.is_finite() && peak > 0.0,
            format!("device_peak_flops is {peak}, expected a positive number"),
        );
        check(
            self.save_interval_ephemeral != Some(0),
            "save_interval_ephemeral is 0, expected at least 1 step, or nothing for none"
                .to_owned(),
        );
        let seq = self.data.sequence_length;
        let z = self.z_loss;
        check(z.is_finite() && z >= 0.0, format!("z_loss is {z}, expected a number of at least 0"));
        if let Some(RouterLossConfig { lb_loss_weight, z_loss_weight }) = self.router_losses {
            let weights = [("lb_loss_weight", lb_loss_weight), ("z_loss_weight", z_loss_weight)];
            for (name, weight) in weights {
                check(
                    weight.is_finite() && weight >= 0.0,
                    format!("router_losses.{name} is {weight}, expected a number of at least 0"),
                );
            }
            check(
                matches!(self.model.feed_forward, FeedForwardConfig::Experts { .. }),
                "router_losses is there, expected only with a model of experts".to_owned(),
            );
        }
        let early = self.early_stopping_factor.unwrap_or(2.0);
        check(
            early.is_finite() && early > 1.0,
            format!("early_stopping_factor is {early}, expected a number above 1"),
        );
        if let Err(error) = self.model.validate() {
            problems.push(error.to_string());
        } else if let Some(problem) = self.form_problem() {
            problems.push(problem);
        } else if seq > self.model.max_sequence_length {
            problems.push(format!(
                "data.sequence_length is {seq}, expected at most model.max_sequence_length = {}",
                self.model.max_sequence_length
            ));
        }
        problems.extend(self.init.validate().err().map(|error| error.to_string()));
        let Self { evaluators, eval_interval, eval_on_load, .. } = self;
        problems.extend(evaluation::problems(evaluators, *eval_interval, *eval_on_load));
        problems.extend(self.faults.problems());
        problems.extend(self.energy.problems());
        let vocab_size = self.model.vocab_size;
        problems.extend(self.data.problems(self.eos_token_id, self.pad_token_id, vocab_size));
        problems.extend(self.optimizer.problems());
        problems.extend(self.batch_problems());
        problems.extend(self.load_problem());
        problems.extend(self.activations.problem(&self.activation_costs()));
        let schedule = self.scheduler.schedule.validate(self.optimizer.learning_rate);
        problems.extend(schedule.err().map(|e| e.to_string()));
        for limit in [self.max_grad_norm, self.max_grad_norm_ratio].into_iter().flatten() {
            problems.extend(self.grad_norm_limit(limit).validate().err().map(|e| e.to_string()));
        }
        if problems.is_empty() { Ok(()) } else { Err(problems.join("\n  ")) }
    }
}
