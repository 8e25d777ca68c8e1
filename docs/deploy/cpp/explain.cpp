// explain explained.onnx [input.bin [class]]: what a converted model answers, as JSON. input.bin: float32, as the model is fed.
#include <onnxruntime_cxx_api.h>

#include <cstdint>
#include <fstream>
#include <iostream>
#include <numeric>
#include <string>
#include <vector>

int main(int count, char** words) {
  if (count < 2) {
    std::cerr << "usage: explain explained.onnx [input.bin [class]]\n";
    return 2;
  }
  try {
    Ort::Env env(ORT_LOGGING_LEVEL_WARNING, "explain");
#ifdef _WIN32
    const std::string given(words[1]);
    Ort::Session session(env, std::wstring(given.begin(), given.end()).c_str(), Ort::SessionOptions{});
#else
    Ort::Session session(env, words[1], Ort::SessionOptions{});
#endif
    Ort::AllocatorWithDefaultOptions allocator;
    std::vector<std::string> inputs, outputs;
    for (size_t i = 0; i < session.GetInputCount(); i++) inputs.emplace_back(session.GetInputNameAllocated(i, allocator).get());
    for (size_t i = 0; i < session.GetOutputCount(); i++) outputs.emplace_back(session.GetOutputNameAllocated(i, allocator).get());

    const Ort::TypeInfo info = session.GetInputTypeInfo(0);
    std::vector<int64_t> shape = info.GetTensorTypeAndShapeInfo().GetShape();
    for (int64_t& size : shape) size = size > 0 ? size : 1;  // one sample, where the batch is open
    std::vector<float> picture(std::accumulate(shape.begin(), shape.end(), int64_t{1}, std::multiplies<int64_t>()));
    if (count > 2) {
      std::ifstream file(words[2], std::ios::binary);
      const auto bytes = static_cast<std::streamsize>(picture.size() * sizeof(float));
      if (!file.read(reinterpret_cast<char*>(picture.data()), bytes)) throw std::runtime_error(std::string(words[2]) + " is too short");
    }

    const Ort::MemoryInfo memory = Ort::MemoryInfo::CreateCpu(OrtArenaAllocator, OrtMemTypeDefault);
    std::vector<Ort::Value> feeds;
    feeds.push_back(Ort::Value::CreateTensor<float>(memory, picture.data(), picture.size(), shape.data(), shape.size()));
    int64_t target = count > 3 ? std::stoll(words[3]) : -1;  // -1: the predicted class
    const int64_t one = 1;
    if (inputs.size() > 1 && inputs[1] == "target") feeds.push_back(Ort::Value::CreateTensor<int64_t>(memory, &target, 1, &one, 1));

    std::vector<const char*> fed, wanted;
    for (size_t i = 0; i < feeds.size(); i++) fed.push_back(inputs[i].c_str());
    for (const std::string& name : outputs) wanted.push_back(name.c_str());
    auto found = session.Run(Ort::RunOptions{}, fed.data(), feeds.data(), feeds.size(), wanted.data(), wanted.size());

    double sum = 0;
    std::string residual = "null";
    float score = 0;
    int64_t explained = -2;
    for (size_t i = 0; i < outputs.size(); i++) {
      if (outputs[i] == "explained_class") explained = found[i].GetTensorData<int64_t>()[0];
      if (outputs[i] == "explained_score") score = found[i].GetTensorData<float>()[0];
      if (outputs[i] == "residual") residual = std::to_string(found[i].GetTensorData<float>()[0]);
      if (outputs[i] == "saliency_map") {
        const float* map = found[i].GetTensorData<float>();
        const size_t size = found[i].GetTensorTypeAndShapeInfo().GetElementCount();
        sum = std::accumulate(map, map + size, 0.0);
        std::ofstream("saliency_map.bin", std::ios::binary).write(reinterpret_cast<const char*>(map), size * sizeof(float));
      }
    }
    std::cout.precision(9);
    std::cout << "{\"class\": " << explained << ", \"score\": " << score << ", \"residual\": " << residual << ", \"sum\": " << sum << "}\n";
  } catch (const std::exception& error) {
    std::cerr << error.what() << "\n";
    return 1;
  }
  return 0;
}
