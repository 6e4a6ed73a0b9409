mod engine;
mod golden;
mod settings;
