// Needs a build: dotnet fsi build.fsx build
#r "../src/Ctkd.Fs/bin/Release/net10.0/Ctkd.Engine.dll"
#r "../src/Ctkd.Fs/bin/Release/net10.0/Ctkd.Fs.dll"
#r "../src/Ctkd.Fs.App/bin/Release/net10.0/FsToolkit.ErrorHandling.dll"
