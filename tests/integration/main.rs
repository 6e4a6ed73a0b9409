mod engine;
mod golden;
mod hub;
mod settings;
