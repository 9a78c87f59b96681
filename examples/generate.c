/* Continues a text by a compressed language model, without Python: what experiments/generate.py prints for the same seed.

       ./generate MODEL.g2 PROMPT [WORDS [TEMPERATURE [TOP_K [SEED]]]]

   docs/deployment.md says how it is built. */
#include <ctype.h>
#include <errno.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "g2.h"

static int failed(const char* what) {
    fprintf(stderr, "error: %s\n", what);
    return 2;
}

/* A whole number from `least` to `most`; `most` + 1 where the text is something else. */
static uint64_t whole(const char* text, uint64_t least, uint64_t most) {
    char* end;
    errno = 0;
    unsigned long long number = strtoull(text, &end, 10);
    return isdigit((unsigned char)*text) && !*end && !errno && number >= least && number <= most ? number : most + 1;
}

static int read_word(g2_model* model, int word, float* state, float* logits) {
    int32_t token = word;
    return g2_step(model, &token, 1, state, logits);
}

/* Prints a word as text: `<eos>` ends the line, between two words of a line stands a space. */
static void print_word(const char* word, int* at_start) {
    int end = strcmp(word, "<eos>") == 0;
    if (end)
        putchar('\n');
    else
        printf("%s%s", *at_start ? "" : " ", word);
    *at_start = end;
    fflush(stdout);
}

/* Reads the words of a prompt after the end of a line; how many, or less than 0. The logits after the last stay. */
static int read_prompt(g2_model* model, char* prompt, float* state, float* logits, int* at_start) {
    int count = 0, end = g2_find_word(model, "<eos>"), unknown = g2_find_word(model, "<unk>");
    if (end < 0) {
        failed("the model has no vocabulary with an <eos>: name a language model");
        return -1;
    }
    if (read_word(model, end, state, logits) < 0) {
        failed(g2_last_error());
        return -1;
    }
    for (char* word = strtok(prompt, " \t\r\n"); word; word = strtok(NULL, " \t\r\n"), ++count) {
        int id = g2_find_word(model, word);
        if (id < 0 && unknown >= 0) fprintf(stderr, "not in the vocabulary, read as <unk>: '%s'\n", word);
        if (id < 0) id = unknown;
        if (id < 0) {
            fprintf(stderr, "error: '%s' is not in the vocabulary, which has no <unk>: use words of the corpus\n", word);
            return -1;
        }
        if (read_word(model, id, state, logits) < 0) {
            failed(g2_last_error());
            return -1;
        }
        print_word(word, at_start);
    }
    return count;
}

int main(int count, char** arguments) {
    if (count < 3) return failed("write generate MODEL.g2 PROMPT [WORDS [TEMPERATURE [TOP_K [SEED]]]]");
    const char *const texts[] = {"50", "1", "40", "1"}, *given[4];
    for (int place = 0; place < 4; ++place) given[place] = count > 3 + place ? arguments[3 + place] : texts[place];
    char* end;
    uint64_t words = whole(given[0], 1, INT32_MAX), top_k = whole(given[2], 1, INT32_MAX), seed = whole(given[3], 0, UINT32_MAX);
    float temperature = strtof(given[1], &end);
    if (words > INT32_MAX || top_k > INT32_MAX || *end || !(temperature > 0))
        return failed("words, top_k and temperature must be numbers above 0");
    if (seed > UINT32_MAX) return failed("seed must be a whole number from 0 to 4294967295");

    g2_model* model = g2_open(arguments[1]);
    if (!model) return failed(g2_last_error());
    int size = g2_logits(model), at_start = 1, status = 2;
    float* logits = malloc(sizeof(float) * (size_t)(size > 0 ? size : 1));
    float* state = calloc((size_t)g2_state_floats(model, 1), sizeof(float));
    if (!logits || !state) {
        failed("there is too little memory for this model");
        goto done;
    }
    int found = read_prompt(model, arguments[2], state, logits, &at_start);
    if (found == 0) failed("the prompt has no words");
    if (found <= 0) goto done;
    for (uint64_t step = 0; step < words; ++step) {
        int word = g2_sample(logits, size, temperature, (int)top_k, seed, step);
        if (word < 0) {
            failed(g2_last_error());
            goto done;
        }
        print_word(g2_word(model, word), &at_start);
        if (step + 1 < words && read_word(model, word, state, logits) < 0) {
            failed(g2_last_error());
            goto done;
        }
    }
    putchar('\n');
    status = fflush(stdout) || ferror(stdout) ? failed("can't write the text: is the disk full?") : 0;
done:
    free(state);
    free(logits);
    g2_close(model);
    return status;
}
