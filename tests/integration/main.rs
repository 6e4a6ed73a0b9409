mod engine;
mod fake_model;
mod golden;
mod http;
mod hub;
mod settings;
mod summaries;
mod support;
