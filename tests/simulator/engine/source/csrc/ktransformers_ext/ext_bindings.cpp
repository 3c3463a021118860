// Simulated: the bindings that the real tree compiles to cpuinfer_ext (PYBIND11_MODULE(cpuinfer_ext, m), m.def_submodule("moe")).
