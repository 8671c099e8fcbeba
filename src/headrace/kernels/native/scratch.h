// What an hr_scratch holds: the work memory of each room of kernels, grown once and reused.
#pragma once
#include "attention.h"
#include "headrace.h"

struct hr_scratch {
  hr::AttendScratch attention;
};
