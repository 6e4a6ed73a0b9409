//! What every variable gets.

use super::*;

#[test]
fn every_variable_of_encoder_and_head_gets_a_gradient() {
    let setup = joint();
    for pooling in [Pooling::Mean, Pooling::Cls] {
        let dir = ModelDir::open(Path::new(MODEL)).unwrap();
        let network = Network::load(&dir, &setup.task, &NetworkOptions { pooling, ..options(&setup) }).unwrap();
        check_gradients(&network, &setup, "float");
    }
}

#[test]
fn gradients_of_products_in_bf16_are_near_those_in_f32() {
    let kernels = Kernels::detect();
    if !kernels.has_bf16() {
        return;
    }
    let setup = joint();
    let gradients = |products: Products, form: Option<FakeQuantizedAs>| {
        let quantization = form.map(quantized).unwrap_or_default();
        let options = NetworkOptions { products, quantization, ..options(&setup) };
        let dir = ModelDir::open(Path::new(MODEL)).unwrap();
        let network = Network::load(&dir, &setup.task, &options).unwrap();
        let (outputs, loss) = loss_of(&network, &setup);
        let gradients = loss.backward().unwrap();
        let of = |(index, variable): (usize, &Variable)| {
            let var = if index == network.words() { &outputs.words } else { &variable.var };
            gradients.get(var).unwrap().flatten_all().unwrap().to_vec1::<f32>().unwrap()
        };
        (loss.to_scalar::<f32>().unwrap(), network.variables().iter().enumerate().flat_map(of).collect::<Vec<_>>())
    };
    for form in [None, Some(FakeQuantizedAs::INT8)] {
        let (exact_loss, exact) = gradients(Products::F32, form);
        let (loss, found) = gradients(Products::Bf16(kernels), form);
        let length = |values: &[f32]| values.iter().map(|x| f64::from(x * x)).sum::<f64>().sqrt();
        let error: Vec<f32> = found.iter().zip(&exact).map(|(found, exact)| found - exact).collect();
        let relative = length(&error) / length(&exact);
        assert!(relative > 0.0 && relative < 0.01, "{relative}");
        match form {
            Some(_) => assert_eq!(loss, exact_loss, "the forward pass must see the rounding as it is"),
            None => assert!((loss - exact_loss).abs() < 0.01 * exact_loss, "{loss} and {exact_loss}"),
        }
    }
}

#[test]
fn every_variable_and_learned_scale_gets_a_gradient_in_every_scheme() {
    let setup = joint();
    let matrices = network(&setup).num_layers() * 6;
    let range = Inputs::Static(QParams::for_range_u8(-4.0, 4.0));
    for levels in Levels::ALL {
        for granularity in [Granularity::Tensor, Granularity::Channel, Granularity::Group(16)] {
            for (inputs, learned) in [(Inputs::Dynamic, false), (Inputs::Dynamic, true), (range, true), (range, false)]
            {
                let form = FakeQuantizedAs { scheme: Scheme::symmetric(levels, granularity), inputs, learned };
                let network = network_of(&setup, quantized(form));
                check_gradients(&network, &setup, &form.to_string());
                let scales = network.variables().iter().filter(|v| v.part == Part::Scales).count();
                let each = if !learned { 0 } else { 1 + usize::from(inputs == range) };
                assert_eq!(scales, each * matrices, "{form}");
            }
        }
    }
    let scheme = Scheme { levels: Levels::Int4, symmetric: false, granularity: Granularity::Group(16) };
    let form = FakeQuantizedAs { scheme, inputs: Inputs::Float, learned: false };
    check_gradients(&network_of(&setup, quantized(form)), &setup, &form.to_string());
}
