//! Fields that have no effect here, and why.

use super::fields::Fields;

/// Each field, and the reason.
const IDLE: &[(&str, &str)] = &[
    ("compile", "there is no compiler of Python to set up"),
    ("speed_monitor", "speed is measured at every step"),
    ("console_log_interval", "a progress bar shows every step"),
    ("gen1_gc_interval", "there is no garbage collector"),
    ("distributed_strategy", "the run is on one device"),
    ("ddp", "the run is on one device"),
    ("fsdp.wrapping_strategy", "the run is on one device"),
    ("fsdp.sharding_strategy", "the run is on one device"),
    ("fsdp.use_orig_params", "the run is on one device"),
    ("fsdp.hybrid_sharding_num_model_replicas", "the run is on one device"),
    ("fsdp.enabled", "the run is on one device"),
    ("fused_loss", "the loss is always computed with its gradients, and reported without z-loss"),
    ("extra_steps_after_cancel", "a run that is stopped saves where it stops"),
    ("canceled_check_interval", "whether to stop is looked at after every step"),
    ("save_data_indices", "`olmo data inspect` finds the instances of any step"),
    ("save_overwrite", "a run goes on in its folder, and refuses one of another run"),
    ("force_save_unsharded", "checkpoints are always whole"),
    ("no_pre_train_checkpoint", "no checkpoint is made before the first step"),
    ("sharded_checkpointer", "checkpoints are always whole"),
    ("load_path_sharded_checkpointer", "checkpoints are read in whatever form they are"),
    ("new_style_checkpoints", "checkpoints are always whole"),
    ("try_load_latest_save", "a run always goes on from its newest checkpoint"),
    ("remote_save_folder", "checkpoints are sent by `push`"),
    ("python_profiling", "there is no Python"),
    ("torch_profiling", "there is no PyTorch"),
    ("hf_datasets_cache_dir", "the original does not use it any more"),
    ("module_outputs_save_steps", "outputs of modules are not saved"),
    ("device_train_batch_size", "it is global_train_batch_size on one device"),
    ("device_train_grad_accum", "it follows from the batch sizes"),
    ("optimizer.no_decay_norm_and_bias", "the original does not use it any more"),
    ("tokenizer.truncate_direction", "no text is cut while training"),
];

/// Notes those that are there and say something.
pub(super) fn note(fields: &mut Fields<'_>) {
    for (field, reason) in IDLE {
        if fields.says_something(field) {
            fields.note(field, reason);
        } else {
            fields.take(field);
        }
    }
}
