// Simulated sgemm.cpp for Arm.
#include "sgemm.h"
#include <arm_neon.h>
