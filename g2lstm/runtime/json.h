// JSON as Python's json module writes it, NaN and Infinity among its numbers.
#pragma once

#include <cmath>
#include <locale>
#include <sstream>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

namespace g2 {

struct Error : std::runtime_error {
  using std::runtime_error::runtime_error;
};

class Json {
 public:
  enum Type { null, boolean, number, text, list, object } type = null;
  double value = 0;
  std::string string;
  std::vector<Json> items;
  std::vector<std::string> keys;  // of an object, whose values are `items`

  const Json* find(const char* key) const {
    for (size_t index = 0; index < keys.size(); ++index)
      if (keys[index] == key) return &items[index];
    return nullptr;
  }

  const Json& at(const char* key, Type wanted) const {
    const Json* found = find(key);
    if (!found || found->type != wanted) throw Error(std::string("its description has no right \"") + key + "\"");
    return *found;
  }

  int size_at(const char* key) const {
    const double found = at(key, number).value;
    if (!(found >= 0 && found <= 1 << 28 && found == std::floor(found)))
      throw Error(std::string("its description has no right \"") + key + "\"");
    return (int)found;
  }

  bool is_set(const char* key) const {
    const Json* found = find(key);
    return found && found->value != 0;
  }
};

class JsonReader {
 public:
  explicit JsonReader(const char* from, const char* end) : at(from), end(end) {}

  Json all() {
    Json result = any(0);
    space();
    if (at != end) fail();
    return result;
  }

 private:
  const char *at, *end;

  [[noreturn]] static void fail() { throw Error("its description is no JSON"); }

  void space() {
    while (at != end && (*at == ' ' || *at == '\n' || *at == '\t' || *at == '\r')) ++at;
  }

  char next() {
    if (at == end) fail();
    return *at++;
  }

  bool takes(const char* word) {
    const char* place = at;
    for (; *word; ++word, ++place)
      if (place == end || *place != *word) return false;
    at = place;
    return true;
  }

  Json any(int depth) {
    if (depth > 100) fail();
    space();
    if (at == end) fail();
    Json result;
    if (*at == '"') {
      result.type = Json::text;
      result.string = string();
    } else if (*at == '{' || *at == '[') {
      const bool named = next() == '{';
      result.type = named ? Json::object : Json::list;
      space();
      if (takes(named ? "}" : "]")) return result;
      do {
        space();
        if (named) {
          result.keys.push_back(string());
          space();
          if (next() != ':') fail();
        }
        result.items.push_back(any(depth + 1));
        space();
      } while (takes(","));
      if (!takes(named ? "}" : "]")) fail();
    } else if (takes("true")) {
      result.type = Json::boolean;
      result.value = 1;
    } else if (takes("false")) {
      result.type = Json::boolean;
    } else if (!takes("null")) {
      result.type = Json::number;
      result.value = number();
    }
    return result;
  }

  double number() {
    if (takes("NaN")) return NAN;
    if (takes("Infinity")) return INFINITY;
    if (takes("-Infinity")) return -INFINITY;
    std::string digits;
    while (at != end && ((*at >= '0' && *at <= '9') || *at == '-' || *at == '+' || *at == '.' || *at == 'e' || *at == 'E'))
      digits += *at++;
    std::istringstream stream(digits);  // a point, whatever the program's locale has (strtod asks that)
    stream.imbue(std::locale::classic());
    double result = 0;
    if (!(stream >> result) || stream.peek() != EOF) fail();
    return result;
  }

  unsigned code() {
    unsigned result = 0;
    for (int digit = 0; digit < 4; ++digit) {
      const char c = next();
      const int value = c >= '0' && c <= '9' ? c - '0' : c >= 'a' && c <= 'f' ? c - 'a' + 10 : c >= 'A' && c <= 'F' ? c - 'A' + 10 : -1;
      if (value < 0) fail();
      result = 16 * result + value;
    }
    return result;
  }

  std::string string() {
    if (next() != '"') fail();
    std::string result;
    for (char c = next(); c != '"'; c = next()) {
      if (c != '\\') {
        result += c;
        continue;
      }
      c = next();
      if (c == 'u') {
        unsigned point = code();
        if (point >= 0xd800 && point < 0xdc00 && takes("\\u")) point = 0x10000 + ((point - 0xd800) << 10) + (code() - 0xdc00);
        append(result, point);
      } else {
        static const char from[] = "\"\\/bfnrt", to[] = "\"\\/\b\f\n\r\t";
        const char* place = std::char_traits<char>::find(from, 8, c);
        if (!place) fail();
        result += to[place - from];
      }
    }
    return result;
  }

  static void append(std::string& text, unsigned point) {  // as UTF-8
    if (point < 0x80) {
      text += (char)point;
    } else if (point < 0x800) {
      text += (char)(0xc0 | point >> 6);
      text += (char)(0x80 | (point & 63));
    } else if (point < 0x10000) {
      text += (char)(0xe0 | point >> 12);
      text += (char)(0x80 | (point >> 6 & 63));
      text += (char)(0x80 | (point & 63));
    } else {
      text += (char)(0xf0 | (point >> 18 & 7));
      text += (char)(0x80 | (point >> 12 & 63));
      text += (char)(0x80 | (point >> 6 & 63));
      text += (char)(0x80 | (point & 63));
    }
  }
};

}  // namespace g2
