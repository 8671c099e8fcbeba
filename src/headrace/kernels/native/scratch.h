// What is behind the ABI's handles: the threads, and work memory that is grown once and reused.
#pragma once
#include "attention.h"
#include "decoder.h"
#include "encoder.h"
#include "headrace.h"
#include "linear.h"
#include "pool.h"

struct hr_pool {
  hr::Pool threads;
};

struct hr_scratch {
  hr::AttendScratch attention;
  hr::DecoderScratch decoder;
  hr::EncoderScratch encoder;
  hr::Activations linear;  // of hr_linear
};
