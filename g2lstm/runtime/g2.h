/* G2-LSTM at run time: compressed models, as `experiments/compress.py` writes them, without Python or torch.

   A model is read once and never changes. All that differs from one sequence to the next is the caller's: a state is an
   array of floats. What returns a number returns less than 0 where something is wrong, what returns a pointer NULL;
   g2_last_error() then says in one line what. Any thread may call; calls wait for each other.

   T time, B batch, D input, H hidden units, P proj_size or H, L layers times directions, V vocabulary. */
#ifndef G2_H
#define G2_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#if defined(_WIN32)
#define G2_API
#else
#define G2_API __attribute__((visibility("default")))
#endif

typedef struct g2_model g2_model;

/* Why the last call of this thread that failed did: one line. */
G2_API const char* g2_last_error(void);

/* Reads a model.g2, whole and with its checksum; the same of a file that is in memory. g2_close takes NULL too. */
G2_API g2_model* g2_open(const char* path);
G2_API g2_model* g2_open_memory(const void* bytes, size_t size);
G2_API void g2_close(g2_model* model);

/* Words in the vocabulary V, 0 in a model that is no language model or was made without one; word `id` as UTF-8. */
G2_API int g2_vocabulary(const g2_model* model);
G2_API const char* g2_word(const g2_model* model, int id);
/* The number of a word, -1 where it is not in the vocabulary (which is no error). */
G2_API int g2_find_word(const g2_model* model, const char* word);

/* Rows of the output layer: the logits of one step and sequence. 0 in a model that is no language model. */
G2_API int g2_logits(const g2_model* model);
/* LSTM modules of the model, and D, H, P, layers and directions (1 or 2) of module `lstm`. */
G2_API int g2_lstms(const g2_model* model);
G2_API int g2_lstm_sizes(const g2_model* model, int lstm, int sizes[5]);
/* The number of floats of the state of B sequences: for one module after the other
   h (L, B, P) and c (L, B, H), as nn.LSTM has them. All zeros is the state at the start. */
G2_API int64_t g2_state_floats(const g2_model* model, int batch);

/* A language model reads a word of each sequence: tokens (B), state as above, which is carried on, and logits (B, V),
   NULL where nobody reads them, as for all words of a prompt but the last. 0, or less where something is wrong. */
G2_API int g2_step(g2_model* model, const int32_t* tokens, int batch, float* state, float* logits);

/* One LSTM module runs over x (T, B, D), row by row as in memory: y (T, B, ways * P) by input time, the module's state
   h (L, B, P) and c (L, B, H) carried on. `lengths` (B) are the steps of each sequence, NULL where all have T; y is 0
   beyond them. `lstm` is the module's number; -1 are all modules, each reading the one before, state as of g2_step in h,
   and NULL for c. */
G2_API int g2_lstm_run(g2_model* model, int lstm, const float* x, int time, int batch, const int32_t* lengths, float* h,
                       float* c, float* y);

/* The output layer alone: features (N, E) of the last LSTM -> logits (N, V). */
G2_API int g2_output(g2_model* model, const float* features, int rows, float* logits);

/* The word that is drawn from softmax(logits / temperature) over the `top_k` largest of n logits, of equal ones the first;
   all where top_k is 0. temperature 0 takes the largest. The same numbers give the same word everywhere: the draw is
   splitmix64 of (seed, step), and the sums are double, in the order of the words. Less than 0 where n or a logit is no
   number to draw with. */
G2_API int g2_sample(const float* logits, int n, float temperature, int top_k, uint64_t seed, uint64_t step);

/* Threads of a call, from then on, for all models; 0 asks only. Returns how many: at first as many as the process may use
   processors. The result does not depend on it. Threads that have nothing to do sleep after a fraction of a millisecond. */
G2_API int g2_threads(int count);

/* Instructions in use, "avx512vnni", "avx2", "neon" or "plain", for all models; naming one that the processor has takes
   it, NULL asks only. NULL where the processor lacks it. */
G2_API const char* g2_instructions(const char* name);

#ifdef __cplusplus
}
#endif
#endif
