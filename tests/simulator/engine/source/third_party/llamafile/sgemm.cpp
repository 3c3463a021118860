// Simulated third_party/llamafile/sgemm.cpp, the tree's own: x86_64.
#include "sgemm.h"
#include <immintrin.h>
