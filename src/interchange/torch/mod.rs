//! PyTorch checkpoints: `torch.save(model.state_dict(), file)`, float or after `torch.quantization.quantize_dynamic`.
//!
//! The file is a zip archive of a pickle and of one entry per storage (torch `serialization.py`). A pickle is a program
//! for a stack machine; [`pickle`] runs the part of it that state dicts need, over a closed list of names, and refuses
//! everything else by name: no code of the file runs, whatever it holds.

mod archive;
mod pickle;
mod state_dict;

pub(super) use state_dict::StateDicts;

#[cfg(test)]
mod tests;
