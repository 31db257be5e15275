// Needs a build: dotnet fsi build.fsx build
#r "../src/Ctkd.Fs.App/bin/Release/net10.0/TorchSharp.dll"
#r "../src/Ctkd.Fs.App/bin/Release/net10.0/Ctkd.Engine.dll"
#r "../src/Ctkd.Fs.App/bin/Release/net10.0/Ctkd.Fs.dll"
#r "../src/Ctkd.Fs.App/bin/Release/net10.0/FsToolkit.ErrorHandling.dll"

// Before anything else touches TorchSharp.
Ctkd.Engine.Natives.Load() |> ignore
